/* tensor: matrix products and the tensor-parallel collectives around them.
 *
 * Column-parallel products split the output columns (rows of w), row-parallel ones the input columns, so that a pair
 * needs one collective in each direction (Shoeybi et al. 2019, arXiv:1909.08053). Under sequence parallelism the
 * all-reduce becomes a reduce-scatter of rows after the pair and an all-gather before it (Korthikanti et al. 2022,
 * arXiv:2205.05198). Everything between the pairs works row by row, so rows are cut as they lie: rank t holds rows
 * [t*S, (t+1)*S) of the micro-batch's B*T. */
#include "engine/internal.h"

enum mt_status mt_tp_gather(struct mt_engine *e, const void *shard, void **whole, int64_t cols)
{
	struct mt_mark start;

	MT_TRY(mt_lap_begin(e, &start));
	MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->rows * cols, e->dtype, whole));
	MT_TRY(mt_comm_all_gather(e->tp, e->compute, shard, *whole, e->shard_rows * cols, e->dtype));
	return mt_lap_end(e, &start, &e->tp_s);
}

enum mt_status mt_tp_reduce(struct mt_engine *e, void **partial, int64_t cols)
{
	struct mt_mark start;

	if (e->layout->tp == 1)
		return MT_OK;
	MT_TRY(mt_lap_begin(e, &start));
	if (e->sp) {
		void *shard;

		MT_TRY(mt_engine_alloc(e, ARENA_ACTIVATIONS, e->shard_rows * cols, e->dtype, &shard));
		MT_TRY(mt_comm_reduce_scatter(e->tp, e->compute, *partial, shard, e->shard_rows * cols, e->dtype));
		mt_engine_release(e, partial);
		*partial = shard;
	} else {
		MT_TRY(mt_comm_all_reduce(e->tp, e->compute, *partial, *partial, e->rows * cols, e->dtype, MT_SUM));
	}
	return mt_lap_end(e, &start, &e->tp_s);
}

enum mt_status mt_linear_gelu(struct mt_engine *e, const void *x, int weight, int bias, int64_t in, int64_t out, void *pre, void *y)
{
	struct mt_op op = {.kind = MT_OP_LINEAR, .dtype = e->dtype};

	op.linear = (struct mt_linear){.rows = e->rows,
				       .in = in,
				       .out = out,
				       .x = x,
				       .w = mt_engine_param(e, weight),
				       .bias = mt_engine_param(e, bias),
				       .y = y,
				       .pre = pre};
	if (mt_fp8_product(e, weight) >= 0)
		return mt_fp8_forward(e, mt_fp8_product(e, weight), &op);
	return mt_engine_enqueue(e, &op);
}

enum mt_status mt_linear_forward(struct mt_engine *e, const void *x, int weight, int bias, int64_t in, int64_t out, void *y)
{
	return mt_linear_gelu(e, x, weight, bias, in, out, NULL, y);
}

enum mt_status mt_linear_dgelu(struct mt_engine *e, const void *dy, int weight, int64_t in, int64_t out, const void *pre, int bias,
			       void *dx)
{
	struct mt_op op = {.kind = MT_OP_LINEAR_DGRAD, .dtype = e->dtype};

	op.linear = (struct mt_linear){.rows = e->rows,
				       .in = in,
				       .out = out,
				       .dy = dy,
				       .w = mt_engine_param(e, weight),
				       .dx = dx,
				       .pre = (void *)(uintptr_t)pre,
				       .dbias = mt_engine_grad(e, bias)};
	if (mt_fp8_product(e, weight) >= 0)
		return mt_fp8_dgrad(e, mt_fp8_product(e, weight), &op);
	return mt_engine_enqueue(e, &op);
}

enum mt_status mt_linear_dgrad(struct mt_engine *e, const void *dy, int weight, int64_t in, int64_t out, void *dx)
{
	return mt_linear_dgelu(e, dy, weight, in, out, NULL, -1, dx);
}

enum mt_status mt_linear_wgrad(struct mt_engine *e, const void *dy, const void *x, int weight, int bias, int64_t in, int64_t out)
{
	struct mt_op op = {.kind = MT_OP_LINEAR_WGRAD, .dtype = e->dtype};

	op.linear = (struct mt_linear){.rows = e->rows, .in = in, .out = out, .dy = dy, .x = x, .dw = mt_engine_grad(e, weight)};
	if (mt_fp8_product(e, weight) >= 0 && e->layout->fp8_wgrad) {
		MT_TRY(mt_bias_grad(e, dy, bias, e->rows, out));
		return mt_fp8_wgrad(e, mt_fp8_product(e, weight), &op);
	}
	op.linear.dbias = mt_engine_grad(e, bias);
	return e->collecting ? mt_wgrads_note(e, &op, MT_ROWS_WHOLE) : mt_engine_enqueue(e, &op);
}

/* Not in 8 bits: those operands are rounded, whole, in the backward pass. */
bool mt_wgrad_of_shards(const struct mt_engine *e, int weight)
{
	return e->collecting && e->sp && mt_fp8_product(e, weight) < 0;
}

enum mt_status mt_linear_wgrad_shard(struct mt_engine *e, const void *dy, const void *x, enum mt_wgrad_rows shard, int weight,
				     int bias, int64_t in, int64_t out)
{
	struct mt_op op = {.kind = MT_OP_LINEAR_WGRAD, .dtype = e->dtype};

	op.linear = (struct mt_linear){.rows = e->rows,
				       .in = in,
				       .out = out,
				       .dy = dy,
				       .x = x,
				       .dw = mt_engine_grad(e, weight),
				       .dbias = mt_engine_grad(e, bias)};
	return mt_wgrads_note(e, &op, shard);
}

enum mt_status mt_bias_grad(struct mt_engine *e, const void *dy, int bias, int64_t rows, int64_t cols)
{
	struct mt_op op = {.kind = MT_OP_BIAS_GRAD, .dtype = e->dtype};

	if (bias < 0)
		return MT_OK;
	op.add = (struct mt_add){.rows = rows, .cols = cols, .a = dy, .out = mt_engine_grad(e, bias)};
	return mt_engine_enqueue(e, &op);
}
