/* Context parallelism of every kind trains as one rank does, and so do documents kept apart.
 * ranks: 8
 *
 * Each row is a layout (layout_job.h). Against one rank on the plain device: the losses of all steps (f32 1e-4 relative, bf16
 * 2e-2), and every gradient tensor of the first (relative norm, f32 1e-5, bf16 2e-2). The same layout twice gives the same bits. */
#include "tests/layout_job.h"

enum { STEPS = 4, SEQ = 32 };

struct row {
	int kind, cp, inner, tp, pp, vp, dp;
	bool sp;
	int zero;
	bool apart;
	int mbs, recompute, schedule, dtype, model;
};

#define RING      MT_CONTEXT_RING
#define GATHER    MT_CONTEXT_ALL_GATHER
#define ULYSSES   MT_CONTEXT_ULYSSES
#define HYBRID    MT_CONTEXT_HYBRID
#define GPT       0
#define LLAMA     1
#define QWEN      2 /* a window, and normalised heads */
#define DEEPSEEK  3 /* latent attention */
#define NONE      MT_RECOMPUTE_NONE
#define SELECTIVE MT_RECOMPUTE_SELECTIVE
#define FULL      MT_RECOMPUTE_FULL
#define F1B1      MT_SCHEDULE_1F1B
#define H1        MT_SCHEDULE_ZB_H1
#define V         MT_SCHEDULE_ZB_V

/* kind, cp, inner, tp, pp, vp, dp; sp, stage of ZeRO, apart; mbs, recompute, schedule, type, model */
static const struct row rows[] = {
	{RING, 1, 1, 1, 1, 1, 1, false, false, true, 2, NONE, F1B1, MT_F32, GPT},
	{RING, 1, 1, 1, 2, 1, 1, false, false, true, 1, NONE, F1B1, MT_F32, LLAMA},
	{RING, 1, 1, 2, 1, 1, 1, true, false, true, 2, SELECTIVE, F1B1, MT_F32, GPT},
	{RING, 1, 1, 1, 1, 1, 2, false, true, true, 1, FULL, F1B1, MT_F32, LLAMA},
	{GATHER, 2, 1, 1, 1, 1, 1, false, false, false, 1, NONE, F1B1, MT_F32, LLAMA},
	{GATHER, 2, 1, 1, 1, 1, 1, false, true, true, 2, NONE, F1B1, MT_F32, GPT},
	{GATHER, 4, 1, 1, 1, 1, 1, false, false, false, 2, SELECTIVE, F1B1, MT_F32, LLAMA},
	{GATHER, 2, 1, 2, 1, 1, 1, true, false, true, 2, FULL, F1B1, MT_F32, LLAMA},
	{GATHER, 2, 1, 1, 2, 1, 1, false, false, true, 1, NONE, H1, MT_F32, GPT},
	{GATHER, 2, 1, 1, 2, 1, 2, false, true, false, 1, NONE, F1B1, MT_BF16, LLAMA},
	{RING, 2, 1, 1, 1, 1, 1, false, false, false, 1, NONE, F1B1, MT_F32, LLAMA},
	{RING, 2, 1, 1, 1, 1, 1, false, false, true, 2, NONE, F1B1, MT_F32, GPT},
	{RING, 4, 1, 1, 1, 1, 1, false, true, true, 2, NONE, F1B1, MT_F32, LLAMA},
	{RING, 4, 1, 1, 1, 1, 1, false, false, false, 1, FULL, F1B1, MT_BF16, GPT},
	{RING, 2, 1, 2, 1, 1, 1, true, false, true, 1, SELECTIVE, F1B1, MT_F32, LLAMA},
	{RING, 2, 1, 1, 1, 1, 2, false, true, false, 2, NONE, F1B1, MT_F32, GPT},
	{RING, 8, 1, 1, 1, 1, 1, false, false, true, 1, NONE, F1B1, MT_F32, LLAMA},
	{RING, 2, 1, 2, 2, 1, 1, false, false, true, 1, NONE, F1B1, MT_F32, GPT},
	{RING, 2, 1, 1, 2, 2, 2, false, true, false, 1, NONE, F1B1, MT_F32, LLAMA},
	{RING, 2, 1, 2, 2, 2, 1, true, false, true, 1, NONE, V, MT_F32, LLAMA},
	{ULYSSES, 2, 1, 1, 1, 1, 1, false, false, false, 2, NONE, F1B1, MT_F32, LLAMA},
	{ULYSSES, 2, 1, 1, 1, 1, 1, false, false, true, 1, SELECTIVE, F1B1, MT_F32, GPT},
	{ULYSSES, 4, 1, 1, 1, 1, 1, false, true, true, 2, NONE, F1B1, MT_F32, GPT},
	{ULYSSES, 2, 1, 1, 2, 1, 2, false, true, true, 1, NONE, H1, MT_F32, LLAMA},
	{ULYSSES, 2, 1, 2, 2, 1, 1, true, false, false, 2, FULL, F1B1, MT_F32, GPT},
	{ULYSSES, 2, 1, 1, 1, 1, 2, false, true, true, 1, NONE, F1B1, MT_BF16, LLAMA},
	{HYBRID, 4, 2, 1, 1, 1, 1, false, false, false, 2, NONE, F1B1, MT_F32, LLAMA},
	{HYBRID, 4, 2, 1, 1, 1, 1, false, true, true, 1, NONE, F1B1, MT_F32, GPT},
	{HYBRID, 8, 2, 1, 1, 1, 1, false, false, true, 1, NONE, F1B1, MT_F32, LLAMA},
	{HYBRID, 8, 4, 1, 1, 1, 1, false, true, true, 2, SELECTIVE, F1B1, MT_F32, GPT},
	{HYBRID, 4, 2, 2, 1, 1, 1, true, false, true, 2, FULL, F1B1, MT_F32, GPT},
	{HYBRID, 4, 2, 1, 2, 1, 1, false, false, true, 1, NONE, H1, MT_F32, LLAMA},
	{HYBRID, 4, 2, 1, 1, 1, 2, false, true, false, 2, NONE, F1B1, MT_BF16, GPT},
	{RING, 2, 1, 1, 1, 1, 1, false, 3, true, 1, NONE, F1B1, MT_F32, LLAMA},
	{RING, 2, 1, 1, 1, 1, 1, false, 0, false, 1, SELECTIVE, F1B1, MT_F32, QWEN},
	{RING, 4, 1, 1, 1, 1, 1, false, 0, true, 2, NONE, F1B1, MT_F32, QWEN},
	{GATHER, 2, 1, 1, 1, 1, 1, false, 1, true, 2, NONE, F1B1, MT_F32, QWEN},
	{ULYSSES, 2, 1, 1, 2, 1, 1, false, 0, true, 1, NONE, F1B1, MT_F32, QWEN},
	{HYBRID, 4, 2, 1, 1, 1, 1, false, 1, false, 1, FULL, F1B1, MT_F32, QWEN},
	{RING, 2, 1, 1, 1, 1, 1, false, 0, true, 1, NONE, F1B1, MT_F32, DEEPSEEK},
	{GATHER, 2, 1, 2, 1, 1, 1, true, 0, false, 2, NONE, F1B1, MT_F32, DEEPSEEK},
	{ULYSSES, 2, 1, 1, 1, 1, 1, false, 1, true, 2, SELECTIVE, F1B1, MT_F32, DEEPSEEK},
	{HYBRID, 4, 2, 1, 1, 1, 1, false, 0, true, 1, FULL, F1B1, MT_F32, DEEPSEEK},
	{RING, 2, 1, 1, 1, 1, 2, false, 2, false, 2, SELECTIVE, F1B1, MT_F32, LLAMA},
	{GATHER, 2, 1, 1, 2, 1, 2, false, 3, true, 1, NONE, F1B1, MT_F32, GPT},
	{ULYSSES, 4, 1, 1, 1, 1, 2, false, 3, false, 1, FULL, F1B1, MT_F32, GPT},
};

static void set_run(const struct job *job, struct mt_run *run, const struct row *row)
{
	struct mt_layout *l = &run->layout;

	static const struct tiny_model *const models[] = {&TINY_GPT, &TINY_LLAMA, &TINY_QWEN, &TINY_DEEPSEEK};

	set_tiny_run(run, models[row->model]);
	run->model.layers = row->dtype == MT_BF16 ? 2 : 5;
	run->model.seq = SEQ;
	run->model.init_std = 0.15; /* larger weights would make more of the rounding errors of f32 */
	run->train.warmup_steps = 1;
	run->train.lr = 1e-2;
	run->train.steps = STEPS;
	job_documents(job, run);
	l->seq = SEQ;
	l->gbs = 8;
	l->cp_kind = row->kind, l->cp = row->cp, l->cp_inner = row->inner;
	l->tp = row->tp, l->pp = row->pp, l->vp = row->vp, l->dp = row->dp;
	l->sp = row->sp, l->zero = row->zero, l->mbs = row->mbs;
	l->documents = row->apart ? MT_DOCUMENTS_APART : MT_DOCUMENTS_JOINED;
	l->recompute = row->recompute;
	l->recompute_attention = row->recompute == SELECTIVE;
	l->schedule = row->schedule;
	l->dtype = row->dtype;
	l->bucket_bytes = 4 << 10;
}

/* One rank's run depends on the model, the type and whether documents are apart. */
static void make_row(const struct job *job, int index, struct job_row *r)
{
	const struct row *row = &rows[index];
	bool narrow = row->dtype == MT_BF16;
	struct row plain = {.kind = RING,
			    .cp = 1,
			    .inner = 1,
			    .tp = 1,
			    .pp = 1,
			    .vp = 1,
			    .dp = 1,
			    .mbs = 1,
			    .apart = row->apart,
			    .dtype = row->dtype,
			    .model = row->model};

	set_run(job, &r->run, row);
	set_run(job, &r->plain, &plain);
	r->device = "reference";
	snprintf(r->reference, sizeof r->reference, "%d-%d-%d", row->model, row->dtype, row->apart);
	r->first_bound = r->last_bound = narrow ? 2e-2 : 1e-4;
	r->gradient_bound = narrow ? 2e-2 : 1e-5;
	r->gradient_least = 1e-2;
	r->twice = index % 4 == 0;
}

int main(int argc, char **argv)
{
	struct job job = {.name = "context", .count = sizeof rows / sizeof *rows, .make = make_row};

	return job_main(&job, argc, argv);
}
