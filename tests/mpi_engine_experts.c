/* Every layout of a model with experts gives the losses and the gradients of one rank.
 * ranks: 8
 *
 * One job of 8 ranks runs a table of layouts (layout_job.h): expert parallelism folded onto tensor, context and data parallelism,
 * slices of experts, pipelines and zero bubble, ZeRO, recompute, shared experts, biases, capacities. Each trains 10 steps: losses
 * within 1e-4 of one rank's (bf16 and f16 2e-2), and after the first step in f32 every gradient tensor within 1e-5 of its norm.
 * Router logits of these models are far enough apart that rounding decides no choice in f32.
 *
 * The dry run's peaks are the live allocator's, byte for byte; those of activations where no count depends on the data: where each
 * expert is on every rank, and where experts are padded to their capacity. */
#include "tests/layout_job.h"

enum { STEPS = 10 };

/* The models: m Mixtral's shape, q many small experts, d DeepSeek's router and shared expert, s one gated shared expert, c capacity
 * by position, l by weight, p padded. */
struct row {
	char model;
	int tp, cp, dp, pp, ep, etp, vp;
	bool sp;
	int zero, recompute, schedule, mbs;
	enum mt_dtype dtype;
	int zero_group, offload;
};

#define PLAIN .vp = 1, .mbs = 1
static const struct row rows[] = {
	{'m', 1, 1, 2, 1, 2, 0, PLAIN},
	{'m', 1, 1, 8, 1, 8, 0, PLAIN},
	{'m', 1, 1, 4, 1, 2, 0, PLAIN, .zero = 1},
	{'m', 1, 1, 2, 1, 1, 0, PLAIN},
	{'m', 1, 1, 2, 1, 1, 2, PLAIN},
	{'m', 1, 1, 4, 1, 2, 2, PLAIN, .zero = 1},
	{'m', 2, 1, 1, 1, 1, 0, PLAIN},
	{'m', 2, 1, 2, 1, 2, 2, PLAIN},
	{'m', 2, 1, 1, 1, 1, 0, PLAIN, .sp = true},
	{'m', 2, 1, 1, 1, 2, 1, PLAIN, .sp = true},
	{'m', 2, 1, 2, 1, 4, 1, PLAIN, .sp = true, .zero = 1},
	{'m', 4, 1, 2, 1, 2, 2, PLAIN, .sp = true},
	{'m', 2, 1, 2, 2, 2, 1, PLAIN, .sp = true, .zero = 1, .recompute = MT_RECOMPUTE_FULL},
	{'m', 1, 1, 2, 4, 2, 0, PLAIN},
	{'m', 1, 1, 4, 2, 4, 0, .vp = 2, .mbs = 1},
	{'m', 1, 2, 1, 1, 2, 0, PLAIN},
	{'m', 1, 2, 2, 1, 4, 0, PLAIN, .zero = 1},
	{'m', 2, 2, 2, 1, 4, 1, PLAIN, .sp = true},
	{'m', 2, 2, 1, 2, 2, 2, PLAIN, .sp = true, .recompute = MT_RECOMPUTE_SELECTIVE},
	{'m', 1, 1, 2, 2, 2, 0, PLAIN, .schedule = MT_SCHEDULE_ZB_H1},
	{'m', 2, 1, 1, 2, 2, 1, .vp = 2, .mbs = 1, .sp = true, .schedule = MT_SCHEDULE_ZB_V},
	{'m', 1, 1, 4, 1, 4, 0, PLAIN, .dtype = MT_BF16},
	{'m', 2, 1, 2, 2, 2, 1, PLAIN, .sp = true, .zero = 1, .dtype = MT_BF16},
	{'m', 2, 1, 2, 1, 4, 1, PLAIN, .sp = true, .dtype = MT_F16},
	{'m', 1, 1, 4, 1, 2, 0, PLAIN, .zero = 2},
	{'m', 1, 1, 8, 1, 2, 0, PLAIN, .zero = 3},
	{'m', 2, 1, 4, 1, 4, 1, PLAIN, .sp = true, .zero = 3},
	{'m', 2, 1, 2, 2, 2, 1, PLAIN, .sp = true, .zero = 3, .recompute = MT_RECOMPUTE_FULL},
	{'m', 1, 1, 8, 1, 2, 0, PLAIN, .zero = 1, .zero_group = 4},
	{'m', 1, 1, 8, 1, 4, 0, PLAIN, .zero = 3, .zero_group = 4},
	{'m', 1, 1, 2, 1, 2, 0, PLAIN, .offload = 2},
	{'q', 1, 1, 2, 1, 2, 0, .vp = 1, .mbs = 2},
	{'q', 1, 1, 8, 1, 8, 0, PLAIN, .zero = 1},
	{'q', 2, 1, 4, 1, 8, 1, PLAIN, .sp = true},
	{'q', 4, 1, 1, 2, 4, 1, PLAIN, .sp = true, .recompute = MT_RECOMPUTE_SELECTIVE},
	{'q', 2, 2, 2, 1, 8, 1, PLAIN, .sp = true, .zero = 1},
	{'d', 1, 1, 4, 1, 4, 0, PLAIN},
	{'d', 1, 1, 2, 2, 2, 0, .vp = 1, .mbs = 2, .zero = 1},
	{'d', 2, 1, 1, 1, 1, 0, PLAIN},
	{'d', 2, 1, 2, 1, 2, 2, PLAIN},
	{'d', 2, 1, 2, 1, 4, 1, PLAIN, .sp = true, .zero = 1},
	{'d', 2, 2, 2, 1, 8, 1, PLAIN, .sp = true},
	{'d', 2, 1, 4, 1, 4, 1, PLAIN, .sp = true, .zero = 3},
	{'d', 1, 1, 2, 2, 1, 0, PLAIN, .zero = 2, .offload = 1},
	{'d', 1, 1, 4, 2, 4, 0, PLAIN, .recompute = MT_RECOMPUTE_FULL},
	{'d', 1, 1, 2, 4, 2, 0, PLAIN, .schedule = MT_SCHEDULE_ZB_H1},
	{'s', 1, 1, 2, 1, 2, 0, PLAIN},
	{'s', 2, 1, 1, 1, 1, 0, PLAIN},
	{'s', 2, 1, 2, 1, 4, 1, PLAIN, .sp = true},
	{'s', 4, 1, 2, 1, 2, 4, PLAIN, .sp = true, .zero = 1},
	{'s', 1, 2, 2, 2, 2, 0, PLAIN},
	{'c', 1, 1, 4, 1, 4, 0, PLAIN},
	{'c', 2, 1, 2, 1, 2, 1, .vp = 1, .mbs = 2, .sp = true},
	{'c', 2, 1, 1, 2, 1, 0, PLAIN},
	{'l', 1, 1, 2, 1, 2, 0, .vp = 1, .mbs = 2},
	{'l', 2, 1, 2, 1, 4, 1, PLAIN, .sp = true},
	{'p', 1, 1, 4, 1, 4, 0, .vp = 1, .mbs = 2},
	{'p', 2, 1, 2, 2, 2, 0, PLAIN, .zero = 1},
};

static const struct tiny_model *model_of(char kind)
{
	switch (kind) {
	case 'q':
		return &TINY_SMALL_EXPERTS;
	case 'd':
		return &TINY_SIGMOID_EXPERTS;
	case 's':
		return &TINY_GATED_EXPERTS;
	case 'c':
		return &TINY_CAPACITY;
	case 'l':
		return &TINY_LIGHTEST;
	case 'p':
		return &TINY_PADDED;
	default:
		return &TINY_MIXTRAL;
	}
}

static void set_run(struct mt_run *run, const struct row *row)
{
	set_tiny_run(run, model_of(row->model));
	run->model.layers = 4;
	run->layout = (struct mt_layout){.tp = row->tp,
					 .cp = row->cp,
					 .dp = row->dp,
					 .pp = row->pp,
					 .ep = row->ep,
					 .etp = row->etp,
					 .vp = row->vp,
					 .cp_inner = 1,
					 .sp = row->sp,
					 .zero = row->zero,
					 .zero_group = row->zero_group,
					 .offload_layers = row->offload,
					 .recompute = row->recompute,
					 .recompute_activation = true,
					 .recompute_norm = true,
					 .schedule = row->schedule,
					 .mbs = row->mbs,
					 .gbs = 8,
					 .seq = TINY_SEQ,
					 .dtype = (int)row->dtype,
					 .threads = 1,
					 .bucket_bytes = 8 << 10};
	run->train.lr = run->train.min_lr = 3e-3;
	run->train.warmup_steps = 0;
	run->train.steps = STEPS;
}

static void make_row(const struct job *job, int index, struct job_row *r)
{
	const struct row *row = &rows[index];
	struct row one = {.model = row->model, .tp = 1, .cp = 1, .dp = 1, .pp = 1, .ep = 1, .vp = 1, .mbs = 2, .dtype = row->dtype};
	bool narrow = row->dtype != MT_F32;

	set_run(&r->run, row);
	set_run(&r->plain, &one);
	r->device = narrow ? "cpu" : "reference";
	snprintf(r->reference, sizeof r->reference, "%c-%d", row->model, (int)row->dtype);
	r->first_bound = r->last_bound = narrow ? 2e-2 : 1e-4;
	r->gradient_bound = narrow ? 0 : 1e-5;
	r->gradient_least = 1e-9;
	r->memory = true;
	r->activations = job_counts_known(&r->run);
}

int main(int argc, char **argv)
{
	struct job job = {.name = "experts", .count = sizeof rows / sizeof rows[0], .make = make_row};

	return job_main(&job, argc, argv);
}
