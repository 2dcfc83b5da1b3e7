/* experts: the operations of experts on the host.
 *
 * Products go group by group through the products of this device. Rows are copied and summed by the vector kernels. Routing is a
 * few exponentials a row beside products of thousands of columns: the plain code of the reference device does it, on threads
 * where rows or sequences stand alone. */
#include "kernels/cpu/cpu.h"
#include "kernels/op_experts.h"
#include "kernels/reference/reference.h"

#include <omp.h>

static enum mt_status run_groups(struct cpu_device *cpu, const struct mt_op *op)
{
	for (int64_t group = 0; group < op->grouped.groups; group++) {
		struct mt_op one;

		mt_op_group(op, group, &one);
		if (one.linear.rows > 0)
			MT_TRY(mt_cpu_linear(cpu, &one));
	}
	return MT_OK;
}

static void gather(const struct mt_rows *r, enum mt_dtype dtype, int64_t first, int64_t last)
{
	const size_t bytes = (size_t)r->cols * mt_dtype_bytes(dtype);
	const int32_t *index = r->index;

	for (int64_t i = first; i < last; i++) {
		char *out = (char *)r->out + (size_t)i * bytes;

		if (index[i] < 0)
			memset(out, 0, bytes);
		else
			memcpy(out, (const char *)r->in + (size_t)(index[i] / r->divide) * bytes, bytes);
	}
}

static void run_rows(const struct cpu_device *cpu, const struct mt_op *op, int64_t first, int64_t last)
{
	switch (op->kind) {
	case MT_OP_GATHER_ROWS:
		gather(&op->rows, op->dtype, first, last);
		break;
	case MT_OP_SUM_ROWS:
		cpu->kernels->sum_rows(&op->rows, op->dtype, first, last);
		break;
	case MT_OP_EXPERT_ACT:
		cpu->kernels->expert_act(&op->expert_act, op->dtype, first, last);
		break;
	default:
		cpu->kernels->expert_act_bwd(&op->expert_act, op->dtype, first, last);
		break;
	}
}

/* Rows that stand alone, shared out to threads. */
static void share_rows(const struct cpu_device *cpu, const struct mt_op *op, int64_t rows, double row_work)
{
	const int team = (int)cpu_least(cpu_team(cpu, row_work * (double)rows), rows);

	if (team <= 1) {
		run_rows(cpu, op, 0, rows);
		return;
	}
#pragma omp parallel num_threads(team)
	{
		const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();

		run_rows(cpu, op, rows * thread / threads, rows * (thread + 1) / threads);
	}
}

/* Rows [first, last) of a routing operation. */
static struct mt_op part_of(const struct mt_op *op, int64_t first, int64_t last)
{
	struct mt_op part = *op;
	struct mt_route *r = &part.route;

	r->rows = last - first;
	r->first_row += first;
	r->logits = (const float *)r->logits + first * r->experts;
	r->weights = (float *)r->weights + (r->weights ? first * r->choices : 0);
	r->index = (int32_t *)r->index + first * r->choices;
	r->dweights = (const float *)r->dweights + (r->dweights ? first * r->choices : 0);
	r->dlogits = (float *)r->dlogits + (r->dlogits ? first * r->experts : 0);
	return part;
}

/* ROUTE and ROUTE_BWD: each row stands alone. */
static enum mt_status route_rows(const struct cpu_device *cpu, const struct mt_op *op,
				 enum mt_status (*run)(const struct mt_op *op))
{
	const int64_t rows = op->route.rows;
	const int team = (int)cpu_least(cpu_team(cpu, 16.0 * (double)(rows * op->route.experts)), rows);
	enum mt_status st = MT_OK;

	if (team <= 1)
		return run(op);
#pragma omp parallel num_threads(team)
	{
		const int64_t thread = omp_get_thread_num(), threads = omp_get_num_threads();
		const struct mt_op part = part_of(op, rows * thread / threads, rows * (thread + 1) / threads);
		enum mt_status mine = run(&part);

		if (mine != MT_OK) {
#pragma omp critical
			st = mine;
		}
	}
	return st == MT_OK ? MT_OK : mt_fail(st, "cpu device: no memory to route over %lld experts", (long long)op->route.experts);
}

enum mt_status mt_cpu_experts(struct cpu_device *cpu, const struct mt_op *op)
{
	const struct mt_rows *r = &op->rows;

	switch (op->kind) {
	case MT_OP_GROUPED:
	case MT_OP_GROUPED_DGRAD:
	case MT_OP_GROUPED_WGRAD:
		return run_groups(cpu, op);
	case MT_OP_ROUTE:
		return route_rows(cpu, op, mt_reference_route);
	case MT_OP_ROUTE_BWD:
		return route_rows(cpu, op, mt_reference_route_bwd);
	case MT_OP_ROUTE_SUMS:
		return mt_reference_route_sums(op);
	case MT_OP_ROUTE_LOSS:
		return mt_reference_route_loss(op);
	case MT_OP_DROP:
		return mt_reference_drop(op);
	case MT_OP_DISPATCH:
		return mt_reference_dispatch(op);
	case MT_OP_GATHER_ROWS:
		share_rows(cpu, op, r->rows, (double)r->cols);
		return MT_OK;
	case MT_OP_SUM_ROWS:
		share_rows(cpu, op, r->rows, (double)(r->cols * r->choices * r->slices));
		return MT_OK;
	default:
		share_rows(cpu, op, op->expert_act.act.rows, 4.0 * (double)op->expert_act.act.cols);
		return MT_OK;
	}
}
