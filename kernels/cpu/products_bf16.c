/* products_bf16: bf16 products through oneDNN's matmul primitive. Making one costs 0.3-2 ms, so they are kept, keyed by
 * block shape, strides and flags; running one allocates nothing: memory objects are made once a thread and pointed at the
 * operands, and the primitive's scratchpad is a slice of the device's scratch.
 * Every primitive is made for one thread; the blocks of a product are what threads share. */
#include "kernels/cpu/cpu.h"

#include <omp.h>
#include <stdlib.h>

#define SLOTS 1024 /* a power of two; emptied when three quarters are taken */

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

/* The up to 8 primitives of a product: full and last block in m, n and k. */
struct variants {
	struct primitive *at[2][2][2];
};

static enum mt_status prepare(struct cpu_device *cpu, const struct cpu_product *p, const struct cpu_grid *grid,
			      struct variants *variants)
{
	const int64_t rows[2] = {grid->rows, p->m - (cpu_blocks(p->m, grid->rows) - 1) * grid->rows};
	const int64_t cols[2] = {grid->cols, p->n - (cpu_blocks(p->n, grid->cols) - 1) * grid->cols};
	const int64_t depth[2] = {grid->depth, p->k - (cpu_blocks(p->k, grid->depth) - 1) * grid->depth};
	size_t scratch_bytes = 0;
	if (cpu->products->count > SLOTS * 3 / 4)
		empty(cpu->products);
	for (int i = 0; i < 8; i++) {
		struct key key;
		memset(&key, 0, sizeof key);
		key.m = rows[i & 1], key.n = cols[i >> 1 & 1], key.k = depth[i >> 2];
		key.lda = p->lda, key.ldb = p->ldb, key.ldc = p->ldc;
		key.ta = p->ta, key.tb = p->tb, key.bias = p->bias != NULL, key.sum = p->accumulate, key.out_dtype = p->out_dtype;
		struct primitive **found = &variants->at[i & 1][i >> 1 & 1][i >> 2];
		MT_TRY(look_up(cpu->products, &key, found));
		if ((*found)->scratch_bytes > scratch_bytes)
			scratch_bytes = (*found)->scratch_bytes;
	}
	return mt_cpu_reserve(cpu, scratch_bytes);
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

static dnnl_status_t run_block(const struct cpu_device *cpu, const struct cpu_product *p, const struct cpu_grid *grid,
			       const struct variants *variants, int64_t row, int64_t col, int thread)
{
	const int last_row = row + grid->rows >= p->m, last_col = col + grid->cols >= p->n;
	for (int64_t k = 0; k < p->k; k += grid->depth) {
		const void *data[ARG_COUNT] = {
			cpu_at(p->a, p->ta, row, k, p->lda, MT_BF16),
			cpu_at(p->b, p->tb, k, col, p->ldb, MT_BF16),
			p->bias ? (const uint16_t *)p->bias + col : NULL,
			cpu_at(p->c, false, row, col, p->ldc, p->out_dtype),
			cpu_scratch(cpu, thread),
		};
		TRY_DNNL(execute(cpu, variants->at[last_row][last_col][k + grid->depth >= p->k], thread, data));
	}
	return dnnl_success;
}

enum mt_status mt_cpu_product_bf16(struct cpu_device *cpu, const struct cpu_product *p, const struct cpu_grid *grid)
{
	const int64_t row_blocks = cpu_blocks(p->m, grid->rows), blocks = row_blocks * cpu_blocks(p->n, grid->cols);
	const int team = (int)cpu_least(cpu->threads, blocks);
	struct variants variants;
	dnnl_status_t failure = dnnl_success;
	MT_TRY(prepare(cpu, p, grid, &variants));
#pragma omp parallel num_threads(team)
	{
		omp_set_num_threads(1);
#pragma omp for schedule(dynamic, 1)
		for (int64_t i = 0; i < blocks; i++) {
			dnnl_status_t status = run_block(cpu, p, grid, &variants, i % row_blocks * grid->rows,
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
