/* values: parameters and gradients between host and device: initial values, and reading them for tests and checkpoints. */
#include "engine/internal.h"

#include <stdlib.h>
#include <string.h>

enum { CHUNK = 1 << 18 }; /* elements staged at once */

static void *element(void *base, int64_t index, enum mt_dtype dtype)
{
	return (void *)((uintptr_t)base + (uintptr_t)index * mt_dtype_bytes(dtype));
}

static void from_double(enum mt_dtype dtype, const double *values, void *out, int64_t count)
{
	for (int64_t i = 0; i < count; i++) {
		if (dtype == MT_BF16)
			((uint16_t *)out)[i] = mt_bf16_from_f32((float)values[i]);
		else if (dtype == MT_F64)
			((double *)out)[i] = values[i];
		else
			((float *)out)[i] = (float)values[i];
	}
}

static void from_f32(enum mt_dtype dtype, const float *values, void *out, int64_t count)
{
	for (int64_t i = 0; i < count; i++) {
		if (dtype == MT_BF16)
			((uint16_t *)out)[i] = mt_bf16_from_f32(values[i]);
		else if (dtype == MT_F64)
			((double *)out)[i] = (double)values[i];
		else
			((float *)out)[i] = values[i];
	}
}

static double to_double(enum mt_dtype dtype, const void *values, int64_t index)
{
	if (dtype == MT_BF16)
		return (double)mt_bf16_to_f32(((const uint16_t *)values)[index]);
	return dtype == MT_F64 ? ((const double *)values)[index] : (double)((const float *)values)[index];
}

static enum mt_status fill_zero(struct mt_engine *e, void *pointer, int64_t count, enum mt_dtype dtype)
{
	struct mt_op op = {.kind = MT_OP_FILL, .dtype = dtype};

	if (!pointer)
		return MT_OK;
	op.move = (struct mt_move){.count = count, .src_dtype = dtype, .dst_dtype = dtype, .dst = pointer};
	return mt_engine_enqueue(e, &op);
}

static enum mt_status initialize_param(struct mt_engine *e, int index, float *values, void *staging)
{
	const struct mt_param *p = &e->table.params[index];
	int64_t count = p->rows * p->cols;

	for (int64_t first = 0; first < count; first += CHUNK) {
		int64_t n = count - first < CHUNK ? count - first : CHUNK;

		mt_param_initial(p, e->model, (uint64_t)e->config.run->train.seed, first, n, values);
		from_f32(e->dtype, values, staging, n);
		MT_TRY(mt_device_upload(e->device, e->compute, element(e->param_flat, p->offset + first, e->dtype), staging,
					(size_t)n * mt_dtype_bytes(e->dtype)));
	}
	return MT_OK;
}

/* The master copy of elements [first, end) of the flat buffer, as far as they lie in this rank's shards: the rounded
 * parameters, so that it does not depend on the layout. */
static enum mt_status copy_master(struct mt_engine *e, int64_t first, int64_t end)
{
	for (int i = 0; i < e->segment_count && e->master; i++) {
		const struct mt_segment *s = &e->segments[i];
		int64_t from = s->offset > first ? s->offset : first, to = s->offset + s->count < end ? s->offset + s->count : end;
		struct mt_op op = {.kind = MT_OP_CAST, .dtype = MT_F32};

		if (from >= to)
			continue;
		op.move = (struct mt_move){.count = to - from,
					   .src_dtype = e->dtype,
					   .dst_dtype = MT_F32,
					   .src = element(e->param_flat, from, e->dtype),
					   .dst = element(e->master, s->shard_offset + from - s->offset, MT_F32)};
		MT_TRY(mt_engine_enqueue(e, &op));
	}
	return MT_OK;
}

enum mt_status mt_initialize(struct mt_engine *e)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	enum mt_status st = MT_OK;
	float *values = malloc(CHUNK * sizeof *values);
	void *staging = malloc(CHUNK * sizeof(double));

	if (!values || !staging) {
		st = mt_fail(MT_NOMEM, "no memory to stage initial values");
		goto out;
	}
	MT_GOTO(out, fill_zero(e, e->param_flat, e->table.elements, e->dtype));
	MT_GOTO(out, fill_zero(e, e->moment1, e->shard_elements, f));
	MT_GOTO(out, fill_zero(e, e->moment2, e->shard_elements, f));
	for (int i = 0; i < e->table.count && e->device->info.executes; i++)
		MT_GOTO(out, initialize_param(e, i, values, staging));
	MT_GOTO(out, copy_master(e, 0, e->table.elements));
out:
	free(staging);
	free(values);
	return st;
}

int mt_engine_param_count(const struct mt_engine *engine)
{
	return engine->table.count;
}

void mt_engine_param_info(const struct mt_engine *engine, int index, struct mt_param_info *info)
{
	const struct mt_param *p = &engine->table.params[index];

	*info = (struct mt_param_info){.name = p->name,
				       .rows = p->rows,
				       .cols = p->cols,
				       .global_rows = p->global_rows,
				       .global_cols = p->global_cols,
				       .shard_axis = p->shard_axis,
				       .first = p->first};
}

/* One of wide and narrow is given. */
static enum mt_status read_flat(struct mt_engine *e, void *flat, const struct mt_param *p, enum mt_dtype dtype, double *wide,
				float *narrow)
{
	int64_t count = p->rows * p->cols;
	void *staging = malloc((size_t)count * mt_dtype_bytes(dtype));
	enum mt_status st;

	if (!staging)
		return mt_fail(MT_NOMEM, "no memory to read %s", p->name);
	st = mt_device_download(e->device, e->compute, staging, element(flat, p->offset, dtype),
				(size_t)count * mt_dtype_bytes(dtype));
	for (int64_t i = 0; i < count && st == MT_OK; i++) {
		if (wide)
			wide[i] = to_double(dtype, staging, i);
		else
			narrow[i] = (float)to_double(dtype, staging, i);
	}
	free(staging);
	return st;
}

enum mt_status mt_engine_read_param(struct mt_engine *engine, int index, float *values)
{
	return read_flat(engine, engine->param_flat, &engine->table.params[index], engine->dtype, NULL, values);
}

enum mt_status mt_engine_read_param_f64(struct mt_engine *engine, int index, double *values)
{
	return read_flat(engine, engine->param_flat, &engine->table.params[index], engine->dtype, values, NULL);
}

enum mt_status mt_engine_write_param(struct mt_engine *engine, int index, const double *values)
{
	const struct mt_param *p = &engine->table.params[index];
	int64_t count = p->rows * p->cols;
	size_t bytes = (size_t)count * mt_dtype_bytes(engine->dtype);
	void *staging = malloc(bytes);
	enum mt_status st;

	if (!staging)
		return mt_fail(MT_NOMEM, "no memory to write %s", p->name);
	from_double(engine->dtype, values, staging, count);
	st = mt_device_upload(engine->device, engine->compute, element(engine->param_flat, p->offset, engine->dtype), staging,
			      bytes);
	if (st == MT_OK)
		st = copy_master(engine, p->offset, p->offset + count);
	if (st == MT_OK) /* the copy may still be under way */
		st = mt_stream_synchronize(engine->compute);
	free(staging);
	return st;
}

/* Under ZeRO-1 the bucket's other shards come from their owners first. */
static enum mt_status gather_gradient(struct mt_engine *e, const struct mt_param *p)
{
	enum mt_dtype f = mt_grad_dtype(e->dtype);

	for (int i = 0; i < e->table.bucket_count; i++) {
		const struct mt_bucket *b = &e->table.buckets[i];
		int64_t shard = b->count / e->replicas;

		if (p->offset >= b->offset && p->offset < b->offset + b->count)
			return mt_comm_all_gather(e->dp, e->compute, element(e->grad_flat, b->offset + e->replica * shard, f),
						  element(e->grad_flat, b->offset, f), shard, f);
	}
	return mt_fail(MT_FAILED, "parameter %s is in no bucket", p->name);
}

static enum mt_status read_grad(struct mt_engine *e, int index, double *wide, float *narrow)
{
	const struct mt_param *p = &e->table.params[index];

	if (e->layout->zero && e->replicas > 1)
		MT_TRY(gather_gradient(e, p));
	MT_TRY(read_flat(e, e->grad_flat, p, mt_grad_dtype(e->dtype), wide, narrow));
	for (int64_t i = 0; i < p->rows * p->cols; i++) {
		if (wide)
			wide[i] *= e->token_scale;
		else
			narrow[i] = (float)(narrow[i] * e->token_scale);
	}
	return MT_OK;
}

enum mt_status mt_engine_read_grad(struct mt_engine *engine, int index, float *values)
{
	return read_grad(engine, index, NULL, values);
}

enum mt_status mt_engine_read_grad_f64(struct mt_engine *engine, int index, double *values)
{
	return read_grad(engine, index, values, NULL);
}
