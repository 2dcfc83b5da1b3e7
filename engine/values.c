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
		else if (dtype == MT_F16)
			((uint16_t *)out)[i] = mt_f16_from_f32((float)values[i]);
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
		else if (dtype == MT_F16)
			((uint16_t *)out)[i] = mt_f16_from_f32(values[i]);
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
	if (dtype == MT_F16)
		return (double)mt_f16_to_f32(((const uint16_t *)values)[index]);
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

/* Elements [first, first + count) of a parameter, in the engine's type, as far as they are kept here. */
static enum mt_status set_elements(struct mt_engine *e, const struct mt_param *p, int64_t first, int64_t count, const void *values)
{
	const struct mt_shard *s = &e->shards[p->bucket];
	int64_t from = p->offset + first, to = from + count, begin = from;

	if (s->gathers) {
		from = from > s->offset ? from : s->offset;
		to = to < s->offset + s->count ? to : s->offset + s->count;
	}
	if (from >= to)
		return MT_OK;
	return mt_device_upload(e->device, e->compute, mt_shard_param(e, p->bucket, from),
				(const char *)values + (size_t)(from - begin) * mt_dtype_bytes(e->dtype),
				(size_t)(to - from) * mt_dtype_bytes(e->dtype));
}

enum mt_status mt_values_set(struct mt_engine *e, int index, const void *values)
{
	const struct mt_param *p = &e->table.params[index];

	return set_elements(e, p, 0, p->rows * p->cols, values);
}

static enum mt_status initialize_param(struct mt_engine *e, int index, float *values, void *staging)
{
	const struct mt_param *p = &e->table.params[index];
	int64_t count = p->rows * p->cols;

	for (int64_t first = 0; first < count; first += CHUNK) {
		int64_t n = count - first < CHUNK ? count - first : CHUNK;

		mt_param_initial(p, e->model, (uint64_t)e->config.run->train.seed, first, n, values);
		from_f32(e->dtype, values, staging, n);
		MT_TRY(set_elements(e, p, first, n, staging));
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
					   .src = mt_shard_param(e, s->bucket, from),
					   .dst = element(e->master, s->shard_offset + from - s->offset, MT_F32)};
		MT_TRY(mt_engine_enqueue(e, &op));
	}
	return MT_OK;
}

enum mt_status mt_initialize(struct mt_engine *e)
{
	enum mt_status st = MT_OK;
	float *values = malloc(CHUNK * sizeof *values);
	void *staging = malloc(CHUNK * sizeof(double));

	if (!values || !staging) {
		st = mt_fail(MT_NOMEM, "no memory to stage initial values");
		goto out;
	}
	MT_GOTO(out, fill_zero(e, e->param_flat, e->param_elements, e->dtype));
	MT_GOTO(out, fill_zero(e, e->moment1, e->shard_elements, mt_moment_dtype(e, e->layout->moment1_dtype)));
	MT_GOTO(out, fill_zero(e, e->moment2, e->moment2_elements, mt_moment_dtype(e, e->layout->moment2_dtype)));
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

/* Times `factor`. One of wide and narrow is given. */
static enum mt_status read_whole(struct mt_engine *e, void *bucket, const struct mt_param *p, enum mt_dtype dtype, double factor,
				 double *wide, float *narrow)
{
	int64_t count = p->rows * p->cols;
	void *staging = malloc((size_t)count * mt_dtype_bytes(dtype));
	enum mt_status st;

	if (!staging)
		return mt_fail(MT_NOMEM, "no memory to read %s", p->name);
	st = mt_device_download(e->device, e->compute, staging,
				element(bucket, p->offset - e->table.buckets[p->bucket].offset, dtype),
				(size_t)count * mt_dtype_bytes(dtype));
	for (int64_t i = 0; i < count && st == MT_OK; i++) {
		if (wide)
			wide[i] = factor * to_double(dtype, staging, i);
		else
			narrow[i] = (float)(factor * to_double(dtype, staging, i));
	}
	free(staging);
	return st;
}

static enum mt_status read_param(struct mt_engine *e, int index, double *wide, float *narrow)
{
	const struct mt_param *p = &e->table.params[index];
	enum mt_status st;
	void *whole;

	MT_TRY(mt_shard_gather_param(e, p->bucket, &whole));
	st = read_whole(e, whole, p, e->dtype, 1, wide, narrow);
	mt_shard_drop_param(e, p->bucket, &whole);
	return st;
}

enum mt_status mt_engine_read_param(struct mt_engine *engine, int index, float *values)
{
	return read_param(engine, index, NULL, values);
}

enum mt_status mt_engine_read_param_f64(struct mt_engine *engine, int index, double *values)
{
	return read_param(engine, index, values, NULL);
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
	st = mt_values_set(engine, index, staging);
	if (st == MT_OK)
		st = copy_master(engine, p->offset, p->offset + count);
	if (st == MT_OK) /* the copy may still be under way */
		st = mt_stream_synchronize(engine->compute);
	free(staging);
	return st;
}

static enum mt_status read_grad(struct mt_engine *e, int index, double *wide, float *narrow)
{
	const struct mt_param *p = &e->table.params[index];

	enum mt_status st;
	void *whole;

	MT_TRY(mt_shard_gather_grad(e, p->bucket, &whole));
	st = read_whole(e, whole, p, mt_grad_dtype(e->dtype), e->token_scale / e->loss_scale.of_gradients, wide, narrow);
	mt_shard_drop_grad(e, p->bucket, &whole);
	return st;
}

enum mt_status mt_engine_read_grad(struct mt_engine *engine, int index, float *values)
{
	return read_grad(engine, index, NULL, values);
}

enum mt_status mt_engine_read_grad_f64(struct mt_engine *engine, int index, double *values)
{
	return read_grad(engine, index, values, NULL);
}
