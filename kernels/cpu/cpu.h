/* cpu: private to kernels/cpu: the fast host device, its threads, scratch and products. */
#ifndef MT_KERNELS_CPU_CPU_H
#define MT_KERNELS_CPU_CPU_H

#include "kernels/backends.h"
#include "kernels/cpu/isa.h"

#include <dnnl.h>

#define CPU_MOST_THREADS 256

struct cpu_rope_table {
	double theta;
	int64_t rotated, positions;
	struct mt_rope_scaling scaling;
	float *values; /* owned: {cos, sin}(positions, E/2) */
};

struct cpu_device {
	const struct cpu_kernels *kernels;
	int threads;
	bool bf16_native; /* oneDNN multiplies bf16 faster than f32 here */
	char *scratch;    /* owned; one slice a thread, contents live for one op */
	size_t scratch_bytes;
	void *sums; /* owned; partial sums of one op */
	size_t sums_bytes;
	struct cpu_rope_table rope;
	struct cpu_products *products; /* owned */
};

/* A product C(m,n) = [C +] factor A(m,k) B(k,n) + bias(n) of row-major matrices; ta: A is stored (k,m), tb: B is stored (n,k).
 * bias is of in_dtype, and A and B are but for fp8; factor is 1 but for fp8. */
struct cpu_product {
	int64_t m, n, k, lda, ldb, ldc;
	bool ta, tb, accumulate;
	enum mt_dtype in_dtype, out_dtype, a_dtype, b_dtype;
	float factor;
	const void *a, *b, *bias;
	void *c;
};

/* How a product is cut: blocks of (rows, cols), each computed by one thread and summed over k in steps of `depth`. `depth` is a
 * function of the shape only, so results do not depend on the number of threads (products.c says why for rows and cols). */
struct cpu_grid {
	int64_t rows, cols, depth;
};

static inline int64_t cpu_least(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

static inline int64_t cpu_blocks(int64_t count, int64_t block)
{
	return (count + block - 1) / block;
}

/* Address of element (row, col) of a row-major matrix, or of its transpose. */
static inline char *cpu_at(const void *base, bool transposed, int64_t row, int64_t col, int64_t ld, enum mt_dtype dtype)
{
	return (char *)(uintptr_t)base + (transposed ? col * ld + row : row * ld + col) * (int64_t)mt_dtype_bytes(dtype);
}

/* Makes scratch of at least `bytes` for each of the device's threads; the slice of thread t starts at cpu_scratch(cpu, t). */
enum mt_status mt_cpu_reserve(struct cpu_device *cpu, size_t bytes);
static inline void *cpu_scratch(const struct cpu_device *cpu, int thread)
{
	return cpu->scratch + (size_t)thread * (cpu->scratch_bytes / (size_t)cpu->threads);
}

/* Threads worth waking for `work` elements moved or computed. */
static inline int cpu_team(const struct cpu_device *cpu, double work)
{
	return work < 32768.0 ? 1 : cpu->threads;
}

/* products.c: the three linear ops. products_bf16.c: primitives for bf16, kept by shape. */
enum mt_status mt_cpu_linear(struct cpu_device *cpu, const struct mt_op *op);
enum mt_status mt_cpu_product_bf16(struct cpu_device *cpu, const struct cpu_product *p, const struct cpu_grid *grid);
enum mt_status mt_cpu_products_create(struct cpu_device *cpu);
void mt_cpu_products_destroy(struct cpu_device *cpu);
/* experts.c: GROUPED to EXPERT_ACT_BWD. */
enum mt_status mt_cpu_experts(struct cpu_device *cpu, const struct mt_op *op);
/* elementwise.c: every other op. */
enum mt_status mt_cpu_elementwise(struct cpu_device *cpu, const struct mt_op *op);

#endif
