/* products_bf16: bf16 products through oneDNN's matmul primitive. Making one costs 0.3-2 ms, so they are kept, keyed by
 * block shape, strides and flags; running one allocates nothing: memory objects are made once a thread and pointed at the
 * operands, and the primitive's scratchpad is a slice of the device's scratch.
 * Every primitive is made for one thread; the blocks of a product are what threads share. */
#include "kernels/cpu/cpu.h"

#include <omp.h>
#include <stdlib.h>

#define FETCH_MOST_BYTES (3 << 19) /* of the second-level cache */
#define SLOTS            1024      /* a power of two; emptied when three quarters are taken */

enum { ARG_A, ARG_B, ARG_BIAS, ARG_C, ARG_SCRATCH, ARG_COUNT };

struct key {
	int64_t m, n, k, lda, ldb, ldc;
	int32_t ta, tb, bias, sum, out_dtype, unused;
};

struct primitive {
	struct key key;
	dnnl_primitive_t run;
	size_t scratch_bytes;
	dnnl_memory_t (*memory)[ARG_COUNT]; /* owned, one set a thread; the absent are NULL */
};

struct cpu_products {
	dnnl_engine_t engine;
	dnnl_stream_t streams[CPU_MOST_THREADS];
	int threads, count;
	struct primitive *slots[SLOTS];
};

static void destroy_primitive(struct primitive *primitive, int threads)
{
	if (!primitive)
		return;
	for (int t = 0; primitive->memory && t < threads; t++)
		for (int i = 0; i < ARG_COUNT; i++)
			dnnl_memory_destroy(primitive->memory[t][i]);
	dnnl_primitive_destroy(primitive->run);
	free(primitive->memory);
	free(primitive);
}

static void empty(struct cpu_products *products)
{
	for (int i = 0; i < SLOTS; i++) {
		destroy_primitive(products->slots[i], products->threads);
		products->slots[i] = NULL;
	}
	products->count = 0;
}

enum mt_status mt_cpu_products_create(struct cpu_device *cpu)
{
	struct cpu_products *products = calloc(1, sizeof *products);
	if (!products)
		return mt_fail(MT_NOMEM, "cpu device: no memory for the table of products");
	cpu->products = products;
	products->threads = cpu->threads;
	dnnl_status_t status = dnnl_engine_create(&products->engine, dnnl_cpu, 0);
	for (int t = 0; t < cpu->threads && status == dnnl_success; t++)
		status = dnnl_stream_create(&products->streams[t], products->engine, dnnl_stream_default_flags);
	return status == dnnl_success ? MT_OK : mt_fail(MT_FAILED, "cpu device: oneDNN does not start (status %d)", (int)status);
}

void mt_cpu_products_destroy(struct cpu_device *cpu)
{
	struct cpu_products *products = cpu->products;
	if (!products)
		return;
	empty(products);
	for (int t = 0; t < products->threads; t++)
		dnnl_stream_destroy(products->streams[t]);
	dnnl_engine_destroy(products->engine);
	free(products);
	cpu->products = NULL;
}

#define TRY_DNNL(call)                                                                                                             \
	do {                                                                                                                       \
		dnnl_status_t status_ = (call);                                                                                    \
		if (status_ != dnnl_success)                                                                                       \
			return status_;                                                                                            \
	} while (0)

/* Descriptors of the operands, in the order of ARG_*; the scratchpad's comes from the primitive. */
static dnnl_status_t describe_operands(const struct key *key, dnnl_memory_desc_t desc[ARG_COUNT])
{
	const dnnl_data_type_t out = key->out_dtype == MT_F32 ? dnnl_f32 : dnnl_bf16;
	dnnl_dims_t a = {key->m, key->k}, b = {key->k, key->n}, c = {key->m, key->n}, bias = {1, key->n};
	dnnl_dims_t a_strides = {key->ta ? 1 : key->lda, key->ta ? key->lda : 1};
	dnnl_dims_t b_strides = {key->tb ? 1 : key->ldb, key->tb ? key->ldb : 1};
	dnnl_dims_t c_strides = {key->ldc, 1}, bias_strides = {key->n, 1};
	TRY_DNNL(dnnl_memory_desc_init_by_strides(&desc[ARG_A], 2, a, dnnl_bf16, a_strides));
	TRY_DNNL(dnnl_memory_desc_init_by_strides(&desc[ARG_B], 2, b, dnnl_bf16, b_strides));
	TRY_DNNL(dnnl_memory_desc_init_by_strides(&desc[ARG_BIAS], 2, bias, dnnl_bf16, bias_strides));
	return dnnl_memory_desc_init_by_strides(&desc[ARG_C], 2, c, out, c_strides);
}

static dnnl_status_t make_primitive(struct primitive *primitive, dnnl_engine_t engine, dnnl_memory_desc_t desc[ARG_COUNT])
{
	const struct key *key = &primitive->key;
	dnnl_primitive_attr_t attr = NULL;
	dnnl_post_ops_t sum = NULL;
	dnnl_primitive_desc_t pd = NULL;
	dnnl_matmul_desc_t matmul;
	dnnl_status_t status = dnnl_primitive_attr_create(&attr);
	if (status == dnnl_success)
		status = dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
	if (status == dnnl_success && key->sum) {
		status = dnnl_post_ops_create(&sum);
		if (status == dnnl_success)
			status = dnnl_post_ops_append_sum(sum, 1.0f);
		if (status == dnnl_success)
			status = dnnl_primitive_attr_set_post_ops(attr, sum);
	}
	if (status == dnnl_success)
		status = dnnl_matmul_desc_init(&matmul, &desc[ARG_A], &desc[ARG_B], key->bias ? &desc[ARG_BIAS] : NULL,
					       &desc[ARG_C]);
	if (status == dnnl_success)
		status = dnnl_primitive_desc_create(&pd, &matmul, attr, engine, NULL);
	if (status == dnnl_success) {
		desc[ARG_SCRATCH] = *dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
		primitive->scratch_bytes = dnnl_memory_desc_get_size(&desc[ARG_SCRATCH]);
		status = dnnl_primitive_create(&primitive->run, pd);
	}
	dnnl_primitive_desc_destroy(pd);
	dnnl_post_ops_destroy(sum);
	dnnl_primitive_attr_destroy(attr);
	return status;
}

static dnnl_status_t build(struct primitive *primitive, const struct cpu_products *products)
{
	dnnl_memory_desc_t desc[ARG_COUNT];
	const int threads = omp_get_max_threads();
	TRY_DNNL(describe_operands(&primitive->key, desc));
	omp_set_num_threads(1); /* oneDNN plans for as many threads as it sees now */
	dnnl_status_t status = make_primitive(primitive, products->engine, desc);
	omp_set_num_threads(threads);
	primitive->memory = calloc((size_t)products->threads, sizeof *primitive->memory);
	if (status == dnnl_success && !primitive->memory)
		status = dnnl_out_of_memory;
	for (int t = 0; t < products->threads && status == dnnl_success; t++)
		for (int i = 0; i < ARG_COUNT && status == dnnl_success; i++)
			if (i != ARG_BIAS || primitive->key.bias)
				status = dnnl_memory_create(&primitive->memory[t][i], &desc[i], products->engine, DNNL_MEMORY_NONE);
	return status;
}

static uint64_t hash(const struct key *key)
{
	const unsigned char *bytes = (const unsigned char *)key;
	uint64_t h = 0xcbf29ce484222325u; /* FNV-1a */
	for (size_t i = 0; i < sizeof *key; i++)
		h = (h ^ bytes[i]) * 0x100000001b3u;
	return h ^ h >> 32;
}

/* The primitive of a key, made when it is not there yet. Never call it with room for fewer than 8 more: it does not empty. */
static enum mt_status look_up(struct cpu_products *products, const struct key *key, struct primitive **found)
{
	uint64_t slot = hash(key) % SLOTS;
	while (products->slots[slot] && memcmp(&products->slots[slot]->key, key, sizeof *key) != 0)
		slot = (slot + 1) % SLOTS;
	*found = products->slots[slot];
	if (*found)
		return MT_OK;
	struct primitive *primitive = calloc(1, sizeof *primitive);
	if (!primitive)
		return mt_fail(MT_NOMEM, "cpu device: no memory for a product");
	primitive->key = *key;
	dnnl_status_t status = build(primitive, products);
	if (status != dnnl_success) {
		destroy_primitive(primitive, products->threads);
		return mt_fail(status == dnnl_out_of_memory ? MT_NOMEM : MT_UNAVAILABLE,
			       "cpu device: oneDNN makes no bf16 product %lldx%lldx%lld (status %d)", (long long)key->m,
			       (long long)key->n, (long long)key->k, (int)status);
	}
	products->slots[slot] = *found = primitive;
	products->count++;
	return MT_OK;
}

/* How a product runs: the up to 8 primitives of its full and last blocks in m, n and k; whether blocks of A^T and C are
 * copied to be dense; and a thread's scratch: the primitive's own, then the copies. */
struct plan {
	struct primitive *at[2][2][2];
	bool pack_a, pack_c;
	size_t a_offset, c_offset;
};

static size_t page_up(size_t bytes)
{
	return (bytes + 4095) / 4096 * 4096;
}

static enum mt_status prepare(struct cpu_device *cpu, const struct cpu_product *p, const struct cpu_grid *grid, struct plan *plan)
{
	const int64_t rows[2] = {grid->rows, p->m - (cpu_blocks(p->m, grid->rows) - 1) * grid->rows};
	const int64_t cols[2] = {grid->cols, p->n - (cpu_blocks(p->n, grid->cols) - 1) * grid->cols};
	const int64_t depth[2] = {grid->depth, p->k - (cpu_blocks(p->k, grid->depth) - 1) * grid->depth};
	plan->pack_a = p->ta && grid->rows < p->m;
	plan->pack_c = !p->accumulate && grid->cols < p->n;
	plan->a_offset = 0;
	if (cpu->products->count > SLOTS * 3 / 4)
		empty(cpu->products);
	for (int i = 0; i < 8; i++) {
		const int row = i & 1, col = i >> 1 & 1, step = i >> 2;
		struct key key;
		memset(&key, 0, sizeof key);
		key.m = rows[row], key.n = cols[col], key.k = depth[step];
		key.lda = plan->pack_a ? key.m : p->lda, key.ldb = p->ldb, key.ldc = plan->pack_c ? key.n : p->ldc;
		key.ta = p->ta, key.tb = p->tb, key.bias = p->bias != NULL, key.sum = p->accumulate, key.out_dtype = p->out_dtype;
		MT_TRY(look_up(cpu->products, &key, &plan->at[row][col][step]));
		if (page_up(plan->at[row][col][step]->scratch_bytes) > plan->a_offset)
			plan->a_offset = page_up(plan->at[row][col][step]->scratch_bytes);
	}
	plan->c_offset = plan->a_offset + (plan->pack_a ? page_up((size_t)(grid->rows * grid->depth) * 2) : 0);
	return mt_cpu_reserve(cpu, plan->c_offset + (plan->pack_c ? (size_t)(grid->rows * grid->cols) * 2 : 0));
}

static dnnl_status_t execute(const struct cpu_device *cpu, const struct primitive *primitive, int thread,
			     const void *const data[ARG_COUNT])
{
	static const int names[ARG_COUNT] = {DNNL_ARG_SRC, DNNL_ARG_WEIGHTS, DNNL_ARG_BIAS, DNNL_ARG_DST, DNNL_ARG_SCRATCHPAD};
	dnnl_exec_arg_t args[ARG_COUNT];
	int count = 0;
	for (int i = 0; i < ARG_COUNT; i++) {
		dnnl_memory_t memory = primitive->memory[thread][i];
		if (!memory)
			continue;
		TRY_DNNL(dnnl_memory_set_data_handle(memory, (void *)(uintptr_t)data[i]));
		args[count++] = (dnnl_exec_arg_t){names[i], memory};
	}
	return dnnl_primitive_execute(primitive->run, cpu->products->streams[thread], count, args);
}

/* Asks for rows of B before a product reads them: oneDNN's kernels wait for memory line by line. */
static void fetch(const char *block, int64_t rows, int64_t row_bytes, int64_t ld_bytes)
{
	if (rows * row_bytes > FETCH_MOST_BYTES)
		return;
	for (int64_t r = 0; r < rows; r++, block += ld_bytes)
		for (int64_t byte = 0; byte < row_bytes; byte += 64)
			__builtin_prefetch(block + byte, 0, 2);
}

static void copy_rows(char *dst, int64_t dst_bytes, const char *src, int64_t src_bytes, int64_t rows, int64_t row_bytes)
{
	for (int64_t r = 0; r < rows; r++)
		memcpy(dst + r * dst_bytes, src + r * src_bytes, (size_t)row_bytes);
}

static dnnl_status_t run_block(const struct cpu_device *cpu, const struct cpu_product *p, const struct cpu_grid *grid,
			       const struct plan *plan, int64_t row, int64_t col, int thread)
{
	const int last_row = row + grid->rows >= p->m, last_col = col + grid->cols >= p->n;
	const int64_t rows = cpu_least(grid->rows, p->m - row), cols = cpu_least(grid->cols, p->n - col);
	char *scratch = cpu_scratch(cpu, thread), *c = cpu_at(p->c, false, row, col, p->ldc, p->out_dtype);
	for (int64_t k = 0; k < p->k; k += grid->depth) {
		const int64_t depth = cpu_least(grid->depth, p->k - k);
		const void *data[ARG_COUNT] = {
			cpu_at(p->a, p->ta, row, k, p->lda, MT_BF16),
			cpu_at(p->b, p->tb, k, col, p->ldb, MT_BF16),
			p->bias ? (const uint16_t *)p->bias + col : NULL,
			plan->pack_c ? scratch + plan->c_offset : c,
			scratch,
		};
		if (plan->pack_a) {
			copy_rows(scratch + plan->a_offset, rows * 2, data[ARG_A], p->lda * 2, depth, rows * 2);
			data[ARG_A] = scratch + plan->a_offset;
		}
		if (row == 0)
			fetch(data[ARG_B], p->tb ? cols : depth, (p->tb ? depth : cols) * 2, p->ldb * 2);
		TRY_DNNL(execute(cpu, plan->at[last_row][last_col][k + grid->depth >= p->k], thread, data));
	}
	if (plan->pack_c)
		copy_rows(c, p->ldc * 2, scratch + plan->c_offset, cols * 2, rows, cols * 2);
	return dnnl_success;
}

enum mt_status mt_cpu_product_bf16(struct cpu_device *cpu, const struct cpu_product *p, const struct cpu_grid *grid)
{
	const int64_t row_blocks = cpu_blocks(p->m, grid->rows), blocks = row_blocks * cpu_blocks(p->n, grid->cols);
	struct plan plan;
	dnnl_status_t failure = dnnl_success;
	MT_TRY(prepare(cpu, p, grid, &plan));
#pragma omp parallel num_threads((int)cpu_least(cpu->threads, blocks))
	{
		omp_set_num_threads(1);
#pragma omp for schedule(dynamic, 1)
		for (int64_t i = 0; i < blocks; i++) {
			dnnl_status_t status = run_block(cpu, p, grid, &plan, i % row_blocks * grid->rows,
							 i / row_blocks * grid->cols, omp_get_thread_num());
			if (status != dnnl_success) {
#pragma omp atomic write
				failure = status;
			}
		}
	}
	if (failure != dnnl_success)
		return mt_fail(MT_FAILED, "cpu device: bf16 product %lldx%lldx%lld failed: oneDNN status %d", (long long)p->m,
			       (long long)p->n, (long long)p->k, (int)failure);
	return MT_OK;
}
