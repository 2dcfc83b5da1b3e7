/* experts_param: the parameters of a layer with experts.
 *
 * Each expert's matrices are parameters with names of their own, "layer.3.experts.17.gate.weight", so that a checkpoint knows
 * nothing of how they were spread. On a rank those of its experts follow each other without gaps, as one product over groups
 * wants them: all down matrices; then gate and up of each expert in turn. */
#include "engine/param.h"

#include <stdio.h>

enum { WHOLE = -1, BY_ROWS = 0, BY_COLS = 1 };

/* One matrix of an expert, split over etp in place of tp. `rows` and `cols` are the whole's. */
static int add_expert(const struct mt_expert_builder *b, int64_t expert, const char *matrix, int64_t rows, int64_t cols, int shard,
		      enum mt_init init, bool follows)
{
	int64_t etp = mt_layout_etp(b->layout);
	char what[40];

	snprintf(what, sizeof what, "experts.%lld.%s.weight", (long long)expert, matrix);
	int index = b->add(b->context, what, rows, cols, WHOLE, init);
	struct mt_param *p = b->param(b->context, index);
	p->shard_axis = shard;
	p->replicated = false;
	p->expert = true;
	p->follows = follows;
	if (shard == BY_ROWS) {
		p->rows = rows / etp;
		p->first = p->rows * b->at.etp;
	} else {
		p->cols = cols / etp;
		p->first = p->cols * b->at.etp;
	}
	return index;
}

static void add_routed(const struct mt_expert_builder *b)
{
	const struct mt_model *m = b->model;
	int64_t C = m->hidden, F = m->expert_ffn, count = m->experts / b->layout->ep, first = count * b->at.ep;
	bool gated = m->mlp == MT_MODEL_SWIGLU;

	for (int64_t i = 0; i < count; i++) {
		int index = add_expert(b, first + i, "down", C, F, BY_COLS, MT_INIT_RESIDUAL, i > 0);

		if (i == 0)
			b->roles[MT_EXPERT_DOWN] = index;
	}
	for (int64_t i = 0; i < count; i++) {
		int index = add_expert(b, first + i, gated ? "gate" : "up", F, C, BY_ROWS, MT_INIT_NORMAL, i > 0);

		if (gated)
			add_expert(b, first + i, "up", F, C, BY_ROWS, MT_INIT_NORMAL, true);
		if (i == 0)
			b->roles[MT_EXPERT_UP] = index;
	}
}

void mt_param_add_experts(const struct mt_expert_builder *builder)
{
	const struct mt_expert_builder *b = builder;
	const struct mt_model *m = b->model;
	int64_t C = m->hidden, F = m->shared_ffn;
	bool gated = m->mlp == MT_MODEL_SWIGLU;

	add_routed(b);
	if (F > 0) {
		b->roles[MT_SHARED_DOWN] = b->add(b->context, "shared.down.weight", C, F, BY_COLS, MT_INIT_RESIDUAL);
		b->roles[MT_SHARED_UP] =
			b->add(b->context, gated ? "shared.gate.weight" : "shared.up.weight", F, C, BY_ROWS, MT_INIT_NORMAL);
		if (gated) {
			int up = b->add(b->context, "shared.up.weight", F, C, BY_ROWS, MT_INIT_NORMAL);

			b->param(b->context, up)->follows = true;
		}
		if (m->shared_gate)
			b->roles[MT_SHARED_SCALE] = b->add(b->context, "shared.scale.weight", 1, C, WHOLE, MT_INIT_NORMAL);
	}
	b->roles[MT_ROUTER] = b->add(b->context, "router.weight", m->experts, C, WHOLE, MT_INIT_NORMAL);
	if (m->router_bias)
		b->roles[MT_ROUTER_BIAS] = b->add(b->context, "router.bias", 1, m->experts, WHOLE, MT_INIT_ZERO);
}

int mt_param_expert_count(const struct mt_model *model, const struct mt_layout *layout)
{
	return model->experts > 0 ? (int)(3 * model->experts / layout->ep) : 0;
}
