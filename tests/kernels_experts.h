/* kernels_experts: the operands of the operations of experts, as kernels_operands.h has those of the others. */
#ifndef MT_TESTS_KERNELS_EXPERTS_H
#define MT_TESTS_KERNELS_EXPERTS_H

#include "tests/kernels_operands.h"

/* Rows spread evenly: offsets are not given. */
static inline void grouped(check *body, enum mt_op_kind kind, int64_t rows, int64_t in, int64_t out, int64_t groups)
{
	struct problem p = start(kind, kind, 2e-5, 1e-2);
	p.op.grouped = (struct mt_grouped){.linear = {.rows = rows, .in = in, .out = out}, .groups = groups};
	if (kind != MT_OP_GROUPED)
		add(&p, "dy", AT(grouped.linear.dy), IN, ACT, rows, out);
	if (kind != MT_OP_GROUPED_DGRAD)
		add(&p, "x", AT(grouped.linear.x), IN, ACT, rows, in);
	if (kind != MT_OP_GROUPED_WGRAD)
		add(&p, "w", AT(grouped.linear.w), IN, ACT, groups * out, in);
	if (kind == MT_OP_GROUPED)
		add(&p, "y", AT(grouped.linear.y), OUT, ACT, rows, out);
	else if (kind == MT_OP_GROUPED_DGRAD)
		add(&p, "dx", AT(grouped.linear.dx), OUT, ACT, rows, in);
	else
		add(&p, "dw", AT(grouped.linear.dw), INOUT, STAT, groups * out, in);
	body(&p);
}

struct routing {
	int64_t rows, experts, choices, sets, set_choices, set_best;
	enum mt_route_kind kind;
	bool normalize, bias;
};

static inline struct problem route_problem(const struct routing *r, enum mt_op_kind second)
{
	struct problem p = start(MT_OP_ROUTE, second, 2e-5, 1);
	p.f32_only = true;
	p.op.route = (struct mt_route){.kind = r->kind,
				       .normalize = r->normalize,
				       .rows = r->rows,
				       .experts = r->experts,
				       .choices = r->choices,
				       .sets = r->sets,
				       .set_choices = r->set_choices,
				       .set_best = r->set_best,
				       .scale = 1.5,
				       .sequences = 3,
				       .seq = r->rows / 2 + 1,
				       .first_row = r->rows / 3,
				       .aux_scale = 0.3,
				       .z_scale = 0.2};
	normal(add(&p, "logits", AT(route.logits), IN, STAT, r->rows, r->experts), 2.0, 0.0);
	if (r->bias)
		normal(add(&p, "bias", AT(route.bias), IN, STAT, 1, r->experts), 0.1, 0.0);
	add(&p, "weights", AT(route.weights), OUT, STAT, r->rows, r->choices);
	add(&p, "index", AT(route.index), OUT, WORD, r->rows, r->choices);
	return p;
}

/* The choice, then what is made of it: its sums, or its gradient. */
static inline void routing(check *body, struct routing r)
{
	struct problem p = route_problem(&r, MT_OP_ROUTE_SUMS);
	add(&p, "sums", AT(route.sums), OUT, STAT, 3 * r.experts, 2);
	body(&p);
	p = route_problem(&r, MT_OP_ROUTE_BWD);
	normal(add(&p, "sums", AT(route.sums), IN, STAT, 3 * r.experts, 2), 0.5, 1.0);
	add(&p, "dweights", AT(route.dweights), IN, STAT, r.rows, r.choices);
	add(&p, "dlogits", AT(route.dlogits), OUT, STAT, r.rows, r.experts);
	body(&p);
	p = route_problem(&r, MT_OP_ROUTE_LOSS);
	normal(add(&p, "sums", AT(route.sums), IN, STAT, 3 * r.experts, 2), 0.5, 1.0);
	add(&p, "out", AT(route.out), INOUT, SUM, 1, 2);
	body(&p);
}

static inline void dropping(check *body, int64_t rows, int64_t choices, int64_t experts, int64_t seq, int64_t capacity,
			    bool by_weight)
{
	struct problem p = start(MT_OP_DROP, MT_OP_DROP, 0, 0);
	p.f32_only = true;
	p.op.rows = (struct mt_rows){.rows = rows,
				     .choices = choices,
				     .experts = experts,
				     .seq = seq,
				     .capacity = capacity,
				     .first_row = rows / 3,
				     .count = rows - rows / 3,
				     .by_weight = by_weight};
	words(add(&p, "index", AT(rows.index), IN, WORD, rows, choices), -1, experts + 1);
	add(&p, "weights", AT(rows.weights), IN, STAT, rows, choices);
	add(&p, "kept", AT(rows.kept), OUT, WORD, rows - rows / 3, choices);
	body(&p);
}

static inline void dispatching(check *body, int64_t rows, int64_t choices, int64_t experts, bool padded)
{
	int64_t padding = padded ? rows * choices : 0;
	struct problem p = start(MT_OP_DISPATCH, MT_OP_DISPATCH, 0, 0);
	p.f32_only = true;
	p.op.rows = (struct mt_rows){.rows = rows, .choices = choices, .experts = experts, .padding = padding};
	words(add(&p, "index", AT(rows.index), IN, WORD, rows, choices), -1, experts + 1);
	add(&p, "counts", AT(rows.counts), OUT, WORD, 1, experts);
	add(&p, "place", AT(rows.place), OUT, WORD, rows, choices);
	add(&p, "source", AT(rows.source), OUT, WORD, 1, padded ? experts * padding : rows * choices);
	body(&p);
}

static inline void gathering(check *body, int64_t rows, int64_t cols, int64_t divide)
{
	struct problem p = start(MT_OP_GATHER_ROWS, MT_OP_GATHER_ROWS, 0, 0);
	p.op.rows = (struct mt_rows){.rows = rows, .cols = cols, .divide = divide};
	words(add(&p, "index", AT(rows.index), IN, WORD, 1, rows), -1, 20 * divide + 1);
	add(&p, "in", AT(rows.in), IN, ACT, 20, cols);
	add(&p, "out", AT(rows.out), OUT, ACT, rows, cols);
	body(&p);
}

static inline void summing(check *body, int64_t rows, int64_t cols, int64_t choices, int64_t slices)
{
	struct problem p = start(MT_OP_SUM_ROWS, MT_OP_SUM_ROWS, 2e-6, 6e-3);
	p.op.rows = (struct mt_rows){.rows = rows, .cols = cols, .choices = choices, .slices = slices, .slice_rows = 20};
	words(add(&p, "index", AT(rows.index), IN, WORD, rows, choices), -1, 21);
	add(&p, "in", AT(rows.in), IN, ACT, 20 * slices, cols);
	add(&p, "out", AT(rows.out), OUT, ACT, rows, cols);
	body(&p);
}

static inline void expert_activation(check *body, enum mt_activation_kind kind, int64_t rows, int64_t cols, double spread)
{
	struct problem p = start(MT_OP_EXPERT_ACT, MT_OP_EXPERT_ACT_BWD, 5e-6, 6e-3);
	const int64_t width = kind == MT_GELU ? cols : 2 * cols;
	p.op.expert_act.act = (struct mt_activation){.kind = kind, .rows = rows, .cols = cols};
	normal(add(&p, "x", AT(expert_act.act.x), IN, ACT, rows, width), spread, 0.0);
	add(&p, "weights", AT(expert_act.weights), IN, STAT, 1, rows);
	add(&p, "dy", AT(expert_act.act.dy), IN, ACT, rows, cols);
	add(&p, "y", AT(expert_act.act.y), OUT, ACT, rows, cols);
	add(&p, "dx", AT(expert_act.act.dx), OUT, ACT, rows, width);
	add(&p, "dweights", AT(expert_act.dweights), OUT, STAT, 1, rows);
	body(&p);
}

/* All of them in a few shapes each. */
static inline void products_of_groups(check *body)
{
	static const enum mt_op_kind kinds[] = {MT_OP_GROUPED, MT_OP_GROUPED_DGRAD, MT_OP_GROUPED_WGRAD};
	for (int k = 0; k < 3; k++) {
		grouped(body, kinds[k], 1, 1, 1, 1);
		grouped(body, kinds[k], 3, 17, 7, 5); /* two groups are empty */
		grouped(body, kinds[k], 129, 64, 33, 4);
		grouped(body, kinds[k], 70, 40, 96, 3);
	}
}

static inline void routings(check *body)
{
	routing(body, (struct routing){1, 1, 1, 1, 1, 1, MT_ROUTE_SIGMOID, false, false});
	routing(body, (struct routing){17, 8, 2, 1, 1, 1, MT_ROUTE_SOFTMAX, true, false});
	routing(body, (struct routing){40, 5, 1, 1, 1, 1, MT_ROUTE_SOFTMAX, false, false});
	routing(body, (struct routing){33, 64, 8, 8, 4, 2, MT_ROUTE_SIGMOID, true, true});
	routing(body, (struct routing){9, 129, 6, 3, 2, 3, MT_ROUTE_SIGMOID, true, true});
	routing(body, (struct routing){7, 40, 40, 1, 1, 1, MT_ROUTE_SOFTMAX, true, false});
	routing(body, (struct routing){12, 36, 4, 6, 2, 2, MT_ROUTE_SOFTMAX, false, false});
	routing(body, (struct routing){31, 160, 6, 8, 3, 1, MT_ROUTE_SOFTMAX, false, false});
}

static inline void rows_of_experts(check *body)
{
	dispatching(body, 1, 1, 1, false);
	dispatching(body, 100, 3, 7, false);
	dispatching(body, 600, 2, 40, false); /* experts of several rounds of a block */
	dispatching(body, 17, 2, 5, true);
	dropping(body, 24, 2, 3, 8, 3, false);
	dropping(body, 24, 2, 3, 8, 3, true);
	dropping(body, 300, 3, 8, 150, 20, true);
	gathering(body, 1, 1, 1);
	gathering(body, 33, 64, 3);
	gathering(body, 70, 129, 1);
	summing(body, 1, 1, 1, 1);
	summing(body, 17, 64, 2, 1);
	summing(body, 33, 300, 3, 2);
}

static inline void expert_activations(check *body)
{
	expert_activation(body, MT_SWIGLU, 1, 1, 1.0);
	expert_activation(body, MT_SWIGLU, 17, 129, 1.0);
	expert_activation(body, MT_SWIGLU, 40, 640, 20.0);
	expert_activation(body, MT_GELU, 7, 33, 1.0);
	expert_activation(body, MT_GELU, 9, 320, 1000.0);
}

#endif
