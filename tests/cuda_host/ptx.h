/* ptx: the instructions of kernels/cuda/ptx.cuh on the processor, with the fragment layouts of the PTX ISA as said there.
 *
 * Lanes show each other their registers in memory of the warp, two places in turn: a lane that comes to the next product waits
 * there for the others, so none overwrites what another has yet to read. Asynchronous copies are put off until they are waited
 * for, so a kernel that reads too early gets what was there before (NaN in fresh shared memory), and source and destination must
 * stay as they are until then, as on a GPU. */
#ifndef MT_TESTS_CUDA_HOST_PTX_H
#define MT_TESTS_CUDA_HOST_PTX_H

typedef const unsigned char *shared_address;

static inline shared_address address_of(const void *shared)
{
	return (shared_address)shared;
}

static inline float element_of(uint32_t pair, int high, __nv_bfloat16)
{
	return __uint_as_float(high ? pair & 0xffff0000u : pair << 16);
}

static inline float element_of(uint32_t pair, int high, __half)
{
	__half h;
	h.x = (unsigned short)(high ? pair >> 16 : pair);
	return __half2float(h);
}

/* A lane's registers in the last two products, element by element. */
struct mma_operands {
	float a[2][8], b[2][4];
	unsigned turn;
};

static inline unsigned host_thread(void)
{
	return threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
}

template <typename E> static inline void mma(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2], E type)
{
	static mma_operands threads[1024];
	mma_operands *warp = &threads[host_thread() & ~31u], *mine = &warp[cuda_host_lane()];
	const unsigned place = ++mine->turn % 2;
	for (int i = 0; i < 8; i++)
		mine->a[place][i] = element_of(a[i / 2], i % 2, type);
	for (int i = 0; i < 4; i++)
		mine->b[place][i] = element_of(b[i / 2], i % 2, type);
	if (cuda_host_exchange("mma.sync", 0xffffffffu, place)[(cuda_host_lane() + 1) % 32] != place)
		cuda_host_fault("mma.sync: the lanes of a warp have made different numbers of products");
	const unsigned g = cuda_host_lane() / 4, t = cuda_host_lane() % 4;
	for (unsigned k = 0; k < 16; k++) {
		const unsigned part = k % 8 / 2, upper = k / 8;
		const float *row = warp[4 * g + part].a[place];
		const float low = row[4 * upper + k % 2], high = row[4 * upper + 2 + k % 2];
		for (unsigned n = 0; n < 2; n++) {
			const float value = warp[4 * (2 * t + n) + part].b[place][2 * upper + k % 2];
			d[n] += low * value;
			d[2 + n] += high * value;
		}
	}
}

static inline const uint16_t *matrix_row(const uint64_t *rows, unsigned matrix, unsigned row)
{
	const void *p = (const void *)rows[8 * matrix + row];
	if ((uintptr_t)p % 16)
		cuda_host_fault("ldmatrix: row %u of matrix %u is not 16-byte aligned", row, matrix);
	return (const uint16_t *)p;
}

static inline void ldmatrix(uint32_t (&r)[4], shared_address row)
{
	const uint64_t *rows = cuda_host_exchange("ldmatrix", 0xffffffffu, (uint64_t)row);
	const unsigned g = cuda_host_lane() / 4, t = cuda_host_lane() % 4;
	for (unsigned m = 0; m < 4; m++) {
		const uint16_t *from = matrix_row(rows, m, g) + 2 * t;
		r[m] = from[0] | (uint32_t)from[1] << 16;
	}
}

static inline void ldmatrix_trans(uint32_t (&r)[4], shared_address row)
{
	const uint64_t *rows = cuda_host_exchange("ldmatrix.trans", 0xffffffffu, (uint64_t)row);
	const unsigned g = cuda_host_lane() / 4, t = cuda_host_lane() % 4;
	for (unsigned m = 0; m < 4; m++)
		r[m] = matrix_row(rows, m, 2 * t)[g] | (uint32_t)matrix_row(rows, m, 2 * t + 1)[g] << 16;
}

/* The copies of a thread that are under way. */
struct host_copies {
	struct {
		void *to;
		const void *from; /* NULL: zeros */
		unsigned group;
	} list[512];
	unsigned count, group;
};

static inline host_copies *copies_of_thread(void)
{
	static host_copies threads[1024];
	return &threads[host_thread()];
}

static inline void copy_async(void *shared, const void *global, bool real)
{
	host_copies *copies = copies_of_thread();
	if ((uintptr_t)shared % 16 || (real && (uintptr_t)global % 16))
		cuda_host_fault("cp.async: %p or %p is not 16-byte aligned", shared, global);
	if (copies->count == 512)
		cuda_host_fault("cp.async: more than 512 copies are under way, the block before may not have waited for its own");
	copies->list[copies->count].to = shared;
	copies->list[copies->count].from = real ? global : NULL;
	copies->list[copies->count++].group = copies->group;
}

static inline void copy_commit(void)
{
	copies_of_thread()->group++;
}

template <int LEFT> static inline void copy_wait(void)
{
	host_copies *copies = copies_of_thread();
	unsigned left = 0;
	for (unsigned i = 0; i < copies->count; i++) {
		if (copies->group - copies->list[i].group <= LEFT) {
			copies->list[left++] = copies->list[i];
			continue;
		}
		if (copies->list[i].from)
			memcpy(copies->list[i].to, copies->list[i].from, 16);
		else
			memset(copies->list[i].to, 0, 16);
	}
	copies->count = left;
}

static inline float exp2_fast(float x)
{
	return exp2f(x);
}

#endif
