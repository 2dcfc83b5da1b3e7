/* A covering set of layouts, each equal to one rank.
 * ranks: 16
 *
 * The axes are below: model, precision, tensor, pipeline, context and data parallelism, experts, ZeRO, recompute and so on. Any two
 * choices of two axes that a layout of up to 16 ranks can have together stand in a row (layout_cover.h). Against one rank on the
 * plain device: the losses of 10 steps (f32 1e-4 relative, bf16 and fp8 2e-2, f16 1e-2) and every gradient tensor of the first
 * (relative norm, f32 1e-5, bf16 2e-2). The dry run's peaks are the live allocator's, byte for byte and arena by arena. Each fourth
 * row runs twice, to the same bits.
 *
 * layout_job.h runs them. */
#include "tests/layout_cover.h"
#include "tests/layout_job.h"

#include <stddef.h>

enum { SEQ = 16, STEPS = 10, MOST_RANKS = 16, LEAST_LAYOUTS = 150 };

static const struct tiny_model *const models[] = {&TINY_GPT,           &TINY_LLAMA,         &TINY_QWEN,    &TINY_BIASED,
						  &TINY_DEEPSEEK,      &TINY_DEEPSEEK_LITE, &TINY_MIXTRAL, &TINY_GATED_EXPERTS,
						  &TINY_DEEPSEEK_FULL, &TINY_PADDED};

static const struct {
	int tp;
	bool sp;
} tensors[] = {{1, false}, {2, false}, {2, true}, {4, false}, {4, true}};

static const struct {
	int schedule, pp, vp, group, first_layers, last_layers;
	const char *stage_layers;
} pipelines[] = {
	{MT_SCHEDULE_1F1B, 1, 1, 0, 0, 0, ""},        {MT_SCHEDULE_1F1B, 2, 1, 0, 0, 0, ""},
	{MT_SCHEDULE_1F1B, 4, 1, 0, 0, 0, "1,3,1,0"}, {MT_SCHEDULE_1F1B, 2, 2, 4, 1, 0, ""},
	{MT_SCHEDULE_1F1B, 4, 2, 0, 0, 0, "0,1x6,2"}, {MT_SCHEDULE_ZB_H1, 2, 1, 0, 0, 0, "1,4"},
	{MT_SCHEDULE_ZB_H1, 4, 1, 0, 0, 0, ""},       {MT_SCHEDULE_ZB_V, 2, 2, 0, 0, 2, ""},
};

static const struct {
	int kind, cp, inner;
} contexts[] = {{MT_CONTEXT_RING, 1, 1},    {MT_CONTEXT_RING, 2, 1},   {MT_CONTEXT_RING, 4, 1},      {MT_CONTEXT_ALL_GATHER, 2, 1},
		{MT_CONTEXT_ULYSSES, 2, 1}, {MT_CONTEXT_HYBRID, 4, 2}, {MT_CONTEXT_ALL_GATHER, 4, 1}};

static const int replicas[] = {1, 2, 4};

static const struct {
	int ep, etp;
} experts[] = {{1, 0}, {2, 0}, {4, 0}, {2, 1}, {1, 2}, {8, 1}};

static const struct {
	int zero, group;
} shardings[] = {{0, 0}, {1, 0}, {2, 0}, {3, 0}, {1, 2}, {3, 2}};

static const struct {
	int kind;
	bool attention, activation, norm;
	int layers, stages;
} recomputes[] = {{MT_RECOMPUTE_NONE, true, true, true, 0, 0},       {MT_RECOMPUTE_SELECTIVE, true, false, false, 0, 0},
		  {MT_RECOMPUTE_SELECTIVE, false, true, true, 1, 0}, {MT_RECOMPUTE_FULL, true, true, true, 0, 0},
		  {MT_RECOMPUTE_FULL, true, true, true, 1, 0},       {MT_RECOMPUTE_FULL, true, true, true, 0, 1}};

static const struct {
	int dtype, reduce, moment1, moment2, fp8;
	bool fp8_wgrad;
} precisions[] = {{MT_F32, MT_F32, MT_F32, MT_F32, MT_FP8_NONE, true},     {MT_BF16, MT_F32, MT_F32, MT_F32, MT_FP8_NONE, true},
		  {MT_BF16, MT_BF16, MT_BF16, MT_BF16, MT_FP8_NONE, true}, {MT_F16, MT_F32, MT_F32, MT_BF16, MT_FP8_NONE, true},
		  {MT_BF16, MT_F32, MT_F32, MT_F32, MT_FP8_DELAYED, true}, {MT_F16, MT_F32, MT_F32, MT_F32, MT_FP8_CURRENT, false}};

static const int optimizers[] = {MT_ADAMW, MT_MUON, MT_SGD};
static const int offloads[] = {0, 1, 100};

#define COUNT(list) (int)(sizeof(list) / sizeof(list)[0])

enum axis {
	MODEL,
	PRECISION,
	PIPELINE,
	CONTEXT,
	TENSOR,
	EXPERTS,
	SHARDING,
	RECOMPUTE,
	REPLICAS,
	OPTIMIZER,
	OFFLOAD,
	DOCUMENTS, /* joined, apart */
	MBS,       /* 1, 2 */
	BUCKET,    /* small ones, one */
	AXES
};

static void set_layout(struct mt_layout *l, const int *row)
{
	*l = (struct mt_layout){.tp = tensors[row[TENSOR]].tp,
				.sp = tensors[row[TENSOR]].sp,
				.schedule = pipelines[row[PIPELINE]].schedule,
				.pp = pipelines[row[PIPELINE]].pp,
				.vp = pipelines[row[PIPELINE]].vp,
				.vp_group = pipelines[row[PIPELINE]].group,
				.first_layers = pipelines[row[PIPELINE]].first_layers,
				.last_layers = pipelines[row[PIPELINE]].last_layers,
				.cp_kind = contexts[row[CONTEXT]].kind,
				.cp = contexts[row[CONTEXT]].cp,
				.cp_inner = contexts[row[CONTEXT]].inner,
				.dp = replicas[row[REPLICAS]],
				.ep = experts[row[EXPERTS]].ep,
				.etp = experts[row[EXPERTS]].etp,
				.zero = shardings[row[SHARDING]].zero,
				.zero_group = shardings[row[SHARDING]].group,
				.recompute = recomputes[row[RECOMPUTE]].kind,
				.recompute_attention = recomputes[row[RECOMPUTE]].attention,
				.recompute_activation = recomputes[row[RECOMPUTE]].activation,
				.recompute_norm = recomputes[row[RECOMPUTE]].norm,
				.recompute_layers = recomputes[row[RECOMPUTE]].layers,
				.recompute_stages = recomputes[row[RECOMPUTE]].stages,
				.dtype = precisions[row[PRECISION]].dtype,
				.reduce_dtype = precisions[row[PRECISION]].reduce,
				.moment1_dtype = precisions[row[PRECISION]].moment1,
				.moment2_dtype = precisions[row[PRECISION]].moment2,
				.fp8 = precisions[row[PRECISION]].fp8,
				.fp8_format = MT_FP8_HYBRID,
				.fp8_history = 4,
				.fp8_wgrad = precisions[row[PRECISION]].fp8_wgrad,
				.offload_layers = offloads[row[OFFLOAD]],
				.documents = row[DOCUMENTS],
				.mbs = 1 + row[MBS],
				.bucket_bytes = row[BUCKET] ? 0 : 4 << 10,
				.gbs = 8,
				.seq = SEQ,
				.threads = 1};
	strcpy(l->stage_layers, pipelines[row[PIPELINE]].stage_layers);
}

/* Free with mt_run_free. */
static void set_run(struct mt_run *run, const int *row)
{
	struct mt_model *m = &run->model;

	set_tiny_run(run, models[row[MODEL]]);
	set_layout(&run->layout, row);
	m->seq = SEQ;
	m->layers = run->layout.pp * run->layout.vp > 5 ? 8 : 5;
	m->init_std = run->layout.dtype == MT_F32 ? 0.15 : 0.05; /* larger weights would make more of the rounding errors */
	if (run->layout.fp8) {                                   /* whose products are of multiples of 16 */
		m->hidden = 64;
		m->head_dim = mt_model_is_latent(m) ? m->head_dim : 16;
		m->ffn = 128;
		m->expert_ffn = m->experts > 0 ? 64 : 0;
		m->shared_ffn = m->shared_ffn > 0 ? 64 : 0;
	}
	run->train.optimizer = optimizers[row[OPTIMIZER]];
	run->train.momentum = 0.9;
	run->train.steps = STEPS;
	run->train.warmup_steps = 2;
	run->train.lr = run->train.optimizer == MT_SGD ? 0.05 : 3e-3;
	run->train.min_lr = 1e-4;
}

static int world_of(const int *row)
{
	struct mt_layout l;

	set_layout(&l, row);
	return (int)mt_layout_world(&l);
}

static int ranks_of(const int *row)
{
	struct mt_run run;
	bool ok;

	if (world_of(row) > MOST_RANKS)
		return 0;
	set_run(&run, row);
	ok = mt_layout_first_broken(&run.model, &run.layout) < 0 &&
	     !(run.train.optimizer != MT_ADAMW && (run.layout.moment1_dtype || run.layout.moment2_dtype));
	mt_run_free(&run);
	return ok ? world_of(row) : 0;
}

/* What one rank trains for a row: the choices that change the result. */
static void plain_row(const int *row, int *plain)
{
	static const int same[] = {MODEL, PRECISION, OPTIMIZER, DOCUMENTS};

	memset(plain, 0, COVER_AXES * sizeof *plain);
	for (int i = 0; i < COUNT(same); i++)
		plain[same[i]] = row[same[i]];
}

static struct cover cover = {.axes = AXES,
			     .choices = {COUNT(models), COUNT(precisions), COUNT(pipelines), COUNT(contexts), COUNT(tensors),
					 COUNT(experts), COUNT(shardings), COUNT(recomputes), COUNT(replicas), COUNT(optimizers),
					 COUNT(offloads), 2, 2, 2},
			     .ranks = ranks_of,
			     .usual = 8};

/* Each choice of each axis stands in some row: else a rule has shut it out, and nobody tests it. */
static bool all_chosen(void)
{
	bool all = true;

	for (int axis = 0; axis < cover.axes; axis++) {
		for (int choice = 0; choice < cover.choices[axis]; choice++) {
			int row = 0;

			while (row < cover.count && cover.rows[row][axis] != choice)
				row++;
			if (row == cover.count)
				printf("FAILED: choice %d of axis %d is in no row\n", choice, axis);
			all = all && row < cover.count;
		}
	}
	return all;
}

static bool make_cover(void)
{
	if (!cover_make(&cover))
		return false;
	printf("%d layouts: %d pairs of choices, %d that no layout has\n", cover.count, cover.pairs, cover.impossible);
	return all_chosen() && cover.count >= LEAST_LAYOUTS;
}

static int count_rows(void)
{
	return cover.count;
}

/* One rank's model has the row's layers, which follow the pipeline. */
static void make_row(const struct job *job, int index, struct job_row *r)
{
	const int *row = cover.rows[index];
	int plain[COVER_AXES];

	plain_row(row, plain);
	set_run(&r->run, row);
	set_run(&r->plain, plain);
	r->plain.model.layers = r->run.model.layers;
	job_documents(job, &r->run);
	job_documents(job, &r->plain);
	r->device = "reference";
	snprintf(r->reference, sizeof r->reference, "%d-%d-%d-%d-%d", row[MODEL], row[PRECISION], row[OPTIMIZER], row[DOCUMENTS],
		 (int)r->run.model.layers);

	const struct mt_layout *l = &r->run.layout;
	const struct mt_model *m = &r->run.model;
	bool narrow = l->dtype != MT_F32;

	r->first_bound = r->last_bound = !narrow ? 1e-4 : l->dtype == MT_F16 && !l->fp8 ? 1e-2 : 2e-2;
	/* narrow logits of a router decide otherwise here and there */
	if (!narrow || (l->dtype == MT_BF16 && l->fp8 == MT_FP8_NONE && m->experts == 0))
		r->gradient_bound = narrow ? 2e-2 : 1e-5;
	r->gradient_least = 1e-2;
	r->memory = true;
	r->activations = job_counts_known(&r->run);
	r->twice = index % 4 == 0;
}

int main(int argc, char **argv)
{
	static struct job job = {.name = "layouts",
				 .make = make_row,
				 .share = make_cover,
				 .shared_count = count_rows,
				 .shared = cover.rows,
				 .shared_bytes = offsetof(struct cover, draws) - offsetof(struct cover, rows)};

	return job_main(&job, argc, argv);
}
