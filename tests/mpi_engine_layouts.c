/* A covering set of layouts, each equal to one rank.
 * ranks: 16
 *
 * The axes are below: model, precision, tensor, pipeline, context and data parallelism, experts, ZeRO, recompute and so on. Any two
 * choices of two axes that a layout of up to 16 ranks can have together stand in a row (layout_cover.h). Against one rank on the
 * plain device: the losses of 10 steps (f32 1e-4 relative, bf16 and fp8 2e-2, f16 1e-2) and every gradient tensor of the first
 * (relative norm, f32 1e-5, bf16 2e-2). The dry run's peaks are the live allocator's, byte for byte and arena by arena. Each fourth
 * row runs twice, to the same bits.
 *
 * Layouts smaller than the job run side by side, each on a block of its ranks. Arguments: "list" prints the rows, numbers select.
 */
#include "base/random.h"
#include "engine/data.h"
#include "tests/layout_cover.h"
#include "tests/layout_trial.h"

#include <unistd.h>

enum { SEQ = 16, MOST_RANKS = 16, LEAST_LAYOUTS = 150 };

static const struct tiny_model *const models[] = {&TINY_GPT,           &TINY_LLAMA,         &TINY_QWEN,    &TINY_BIASED,
						  &TINY_DEEPSEEK,      &TINY_DEEPSEEK_LITE, &TINY_MIXTRAL, &TINY_GATED_EXPERTS,
						  &TINY_DEEPSEEK_FULL, &TINY_PADDED};

static const struct {
	int tp;
	bool sp;
} tensors[] = {{1, false}, {2, false}, {2, true}, {4, false}, {4, true}};

static const struct {
	int schedule, pp, vp, group, first_layers, last_layers;
} pipelines[] = {
	{MT_SCHEDULE_1F1B, 1, 1, 0, 0, 0},  {MT_SCHEDULE_1F1B, 2, 1, 0, 0, 0}, {MT_SCHEDULE_1F1B, 4, 1, 0, 1, 1},
	{MT_SCHEDULE_1F1B, 2, 2, 4, 1, 0},  {MT_SCHEDULE_1F1B, 4, 2, 0, 0, 0}, {MT_SCHEDULE_ZB_H1, 2, 1, 0, 0, 0},
	{MT_SCHEDULE_ZB_H1, 4, 1, 0, 0, 0}, {MT_SCHEDULE_ZB_V, 2, 2, 0, 0, 2},
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
	int layers;
} recomputes[] = {{MT_RECOMPUTE_NONE, true, true, true, 0},
		  {MT_RECOMPUTE_SELECTIVE, true, false, false, 0},
		  {MT_RECOMPUTE_SELECTIVE, false, true, true, 1},
		  {MT_RECOMPUTE_FULL, true, true, true, 0},
		  {MT_RECOMPUTE_FULL, true, true, true, 1}};

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
				.dtype = precisions[row[PRECISION]].dtype,
				.reduce_dtype = precisions[row[PRECISION]].reduce,
				.moment1_dtype = precisions[row[PRECISION]].moment1,
				.moment2_dtype = precisions[row[PRECISION]].moment2,
				.fp8 = precisions[row[PRECISION]].fp8,
				.fp8_history = 4,
				.fp8_wgrad = precisions[row[PRECISION]].fp8_wgrad,
				.offload_layers = offloads[row[OFFLOAD]],
				.documents = row[DOCUMENTS],
				.mbs = 1 + row[MBS],
				.bucket_bytes = row[BUCKET] ? 0 : 4 << 10,
				.gbs = 8,
				.seq = SEQ,
				.threads = 1};
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
	}
	run->train.optimizer = optimizers[row[OPTIMIZER]];
	run->train.momentum = 0.9;
	run->train.steps = TRIAL_STEPS;
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

struct job {
	struct mt_fabric *fabric;
	struct mt_group *world;
	struct made_up made;
	char directory[200];
	struct cover cover;
	double bad[COVER_ROWS];
};

/* The model's layers follow the pipeline. */
static void name_reference(const struct job *job, const int *row, char path[300])
{
	snprintf(path, 300, "%s/%d-%d-%d-%d-%d", job->directory, row[MODEL], row[PRECISION], row[OPTIMIZER], row[DOCUMENTS],
		 pipelines[row[PIPELINE]].pp * pipelines[row[PIPELINE]].vp > 5);
}

static void set_data(const struct job *job, struct mt_run *run)
{
	char path[220];

	snprintf(path, sizeof path, "%s/data", job->directory);
	free(run->data.path);
	run->data.path = strdup(path);
}

static enum mt_status train_reference(struct job *job, struct mt_fabric *alone, const int *row, const char *path)
{
	struct trial *trial = malloc(sizeof *trial);
	int plain[COVER_AXES];
	struct mt_run run, of_row;
	enum mt_status st;

	plain_row(row, plain);
	set_run(&of_row, row);
	set_run(&run, plain);
	run.model.layers = of_row.model.layers;
	set_data(job, &run);
	MT_GOTO(out, trial_train(&run, "reference", alone, true, trial));
	st = trial_save(trial, path);
out:
	trial_free(trial);
	free(trial);
	mt_run_free(&of_row);
	mt_run_free(&run);
	return st;
}

/* Each reference once, by the ranks in turn. */
static enum mt_status train_references(struct job *job, struct mt_fabric *alone)
{
	char(*names)[300] = calloc(COVER_ROWS, sizeof *names);
	int count = 0;
	enum mt_status st = MT_OK;

	for (int i = 0; i < job->cover.count && st == MT_OK; i++) {
		int k = 0;

		name_reference(job, job->cover.rows[i], names[count]);
		while (k < count && strcmp(names[k], names[count]) != 0)
			k++;
		if (k < count)
			continue;
		if (count % mt_fabric_size(job->fabric) == mt_fabric_rank(job->fabric))
			st = train_reference(job, alone, job->cover.rows[i], names[count]);
		count++;
	}
	free(names);
	return st;
}

static enum mt_status check_row(struct job *job, int index, struct mt_fabric *block, char why[TRIAL_WHY])
{
	const int *row = job->cover.rows[index];
	struct trial *got = calloc(1, sizeof *got), *want = calloc(1, sizeof *want), *again = calloc(1, sizeof *again);
	struct mt_run run;
	char path[300];
	enum mt_status st;

	set_run(&run, row);
	set_data(job, &run);
	int dtype = run.layout.dtype;
	bool narrow = dtype != MT_F32;
	/* narrow logits of a router decide otherwise here and there */
	bool exact = !narrow || (dtype == MT_BF16 && run.layout.fp8 == MT_FP8_NONE && run.model.experts == 0);

	name_reference(job, row, path);
	MT_GOTO(out, trial_load(want, path));
	MT_GOTO(out, trial_train(&run, "cpu", block, true, got));
	trial_compare_losses(got, want, !narrow ? 1e-4 : dtype == MT_F16 && !run.layout.fp8 ? 1e-2 : 2e-2, why);
	if (exact)
		trial_compare_gradients(got, want, narrow ? 2e-2 : 1e-5, why);
	if (!why[0])
		MT_GOTO(out, trial_compare_memory(&run, got, mt_fabric_rank(block), &job->made, why));
	if (index % 4 == 0) {
		MT_GOTO(out, trial_train(&run, "cpu", block, false, again));
		if (!why[0] && memcmp((const char *)got->losses, (const char *)again->losses, sizeof got->losses) != 0)
			snprintf(why, TRIAL_WHY, "the second run of the same layout differs in its bits");
	}
out:
	trial_free(got);
	trial_free(want);
	trial_free(again);
	free(got);
	free(want);
	free(again);
	mt_run_free(&run);
	return st;
}

static void text_of(const int *row, char text[200])
{
	struct mt_run run;
	char layout[96];

	set_run(&run, row);
	mt_layout_text(&run.layout, layout);
	snprintf(text, 200, "%s, %s, optimizer %d, context %d: %s", run.model.name, mt_dtype_name((enum mt_dtype)run.layout.dtype),
		 run.train.optimizer, row[CONTEXT], layout);
	mt_run_free(&run);
}

/* The rows of one world, shared out over the blocks of so many ranks. */
static void run_rows(struct job *job, int world, int argc, char **argv)
{
	int blocks = mt_fabric_size(job->fabric) / world, mine = mt_fabric_rank(job->fabric) / world, turn = 0;

	for (int i = 0; i < job->cover.count; i++) {
		char why[TRIAL_WHY] = "", text[200];
		struct mt_fabric *block = NULL;
		bool chosen = argc < 2;
		enum mt_status st;

		for (int k = 1; k < argc; k++)
			chosen = chosen || atoi(argv[k]) == i;
		if (world_of(job->cover.rows[i]) != world || !chosen || turn++ % blocks != mine)
			continue;
		st = mt_fabric_block(&block, job->fabric, world);
		if (st == MT_OK)
			st = check_row(job, i, block, why);
		if (st != MT_OK)
			snprintf(why, sizeof why, "%.230s", mt_error_message());
		mt_error_clear();
		mt_fabric_destroy(block);
		text_of(job->cover.rows[i], text);
		if (why[0])
			printf("FAILED %d: %s, rank %d: %s\n", i, text, mt_fabric_rank(job->fabric) % world, why);
		fflush(stdout);
		job->bad[i] = why[0] != '\0';
	}
}

/* Documents of 1 to 20 tokens. */
static enum mt_status write_documents(const struct job *job)
{
	enum { TEXTS = 120 };
	static int32_t tokens[TEXTS][20];
	const int32_t *pointers[TEXTS];
	int64_t lengths[TEXTS];
	char path[220];

	snprintf(path, sizeof path, "%s/data", job->directory);
	for (int d = 0; d < TEXTS; d++) {
		lengths[d] = 1 + (int64_t)mt_random_integer(3, 1, (uint64_t)d, 20);
		for (int64_t t = 0; t < lengths[d]; t++)
			tokens[d][t] = (int32_t)mt_random_integer(3, 2 + (uint64_t)d, (uint64_t)t, TINY_VOCAB);
		pointers[d] = tokens[d];
	}
	return mt_indexed_write(path, pointers, lengths, TEXTS, TINY_VOCAB);
}

/* Rank 0 makes what all read: the directory, the documents, the rows. */
static enum mt_status prepare(struct job *job)
{
	bool first = mt_fabric_rank(job->fabric) == 0;
	int count = COUNT(job->directory) + (int)sizeof job->cover.rows;
	char *all = calloc((size_t)mt_fabric_size(job->fabric), (size_t)count), *mine = calloc(1, (size_t)count);
	enum mt_status st = MT_OK;

	if (first) {
		snprintf(job->directory, sizeof job->directory, "%s/layouts-XXXXXX", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp");
		if (!mkdtemp(job->directory))
			st = mt_fail(MT_IO, "%s cannot be made", job->directory);
		if (st == MT_OK)
			st = write_documents(job);
		if (st == MT_OK && !cover_make(&job->cover))
			st = mt_fail(MT_FAILED, "more than %d rows", COVER_ROWS);
		memcpy(mine, job->directory, sizeof job->directory);
		memcpy(mine + sizeof job->directory, job->cover.rows, sizeof job->cover.rows);
	}
	double rows = job->cover.count, bad = st != MT_OK;
	MT_GOTO(out, mt_comm_host_all_reduce(job->world, &bad, 1, MT_MAX));
	MT_GOTO(out, mt_comm_host_all_reduce(job->world, &rows, 1, MT_MAX));
	MT_GOTO(out, mt_comm_host_all_gather(job->world, mine, all, (size_t)count));
	if (bad != 0)
		st = mt_fail(MT_FAILED, "rank 0 could not begin");
	memcpy(job->directory, all, sizeof job->directory);
	memcpy(job->cover.rows, all + sizeof job->directory, sizeof job->cover.rows);
	job->cover.count = (int)rows;
out:
	free(all);
	free(mine);
	return st;
}

static void clean_up(const struct job *job)
{
	char path[320];

	for (int i = 0; i < job->cover.count; i++) {
		name_reference(job, job->cover.rows[i], path);
		unlink(path);
	}
	snprintf(path, sizeof path, "%s/data.bin", job->directory);
	unlink(path);
	snprintf(path, sizeof path, "%s/data.idx", job->directory);
	unlink(path);
	rmdir(job->directory);
}

static void tell(const struct job *job, int argc)
{
	int failed = 0, layouts = job->cover.count;

	for (int i = 0; i < layouts; i++)
		failed += job->bad[i] != 0;
	if (layouts < LEAST_LAYOUTS && failed++ == 0)
		printf("FAILED: %d layouts, at least %d are wanted\n", layouts, LEAST_LAYOUTS);
	printf("%d layouts: %d pairs of choices, %d that no layout has\n", layouts, job->cover.pairs, job->cover.impossible);
	printf("%d passed, %d failed, 0 skipped\n", argc > 1 ? argc - 1 - failed : layouts - failed, failed);
}

static enum mt_status run_all(struct job *job, int argc, char **argv)
{
	struct mt_fabric *alone = NULL;
	enum mt_status st;

	MT_GOTO(out, prepare(job));
	MT_GOTO(out, mt_fabric_block(&alone, job->fabric, 1));
	MT_GOTO(out, train_references(job, alone));
	MT_GOTO(out, mt_comm_barrier(job->world));
	for (int world = mt_fabric_size(job->fabric); world >= 1; world /= 2)
		run_rows(job, world, argc, argv);
	MT_GOTO(out, mt_comm_host_all_reduce(job->world, job->bad, COVER_ROWS, MT_MAX));
out:
	mt_fabric_destroy(alone);
	return st;
}

static void list_rows(struct cover *cover)
{
	cover_make(cover);
	for (int i = 0; i < cover->count; i++) {
		char text[200];

		text_of(cover->rows[i], text);
		printf("%3d %2d ranks %s\n", i, world_of(cover->rows[i]), text);
	}
	printf("%d pairs, %d not possible\n", cover->pairs, cover->impossible);
}

int main(int argc, char **argv)
{
	struct mt_fabric_config config = {.kind = mt_fabric_launched() ? "mpi" : "self"};
	static struct job job = {.cover = {.axes = AXES,
					   .choices = {COUNT(models), COUNT(precisions), COUNT(pipelines), COUNT(contexts),
						       COUNT(tensors), COUNT(experts), COUNT(shardings), COUNT(recomputes),
						       COUNT(replicas), COUNT(optimizers), COUNT(offloads), 2, 2, 2},
					   .ranks = ranks_of,
					   .usual = 8}};
	int ranks[16] = {0}, failed = 0;

	if (argc > 1 && strcmp(argv[1], "list") == 0) {
		list_rows(&job.cover);
		return 0;
	}
	for (int i = 0; i < 16; i++)
		ranks[i] = i;
	if (mt_fabric_create(&job.fabric, &config) != MT_OK ||
	    mt_group_create(job.fabric, "test", ranks, mt_fabric_size(job.fabric), &job.world) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		return 4;
	}
	make_up(&job.made, mt_fabric_size(job.fabric), 1, 10, 1e10, 1e10, 1e-6);
	if (run_all(&job, argc, argv) != MT_OK) {
		fprintf(stderr, "rank %d: %s\n", mt_fabric_rank(job.fabric), mt_error_message());
		mt_fabric_abort(job.fabric, 4);
	}
	for (int i = 0; i < job.cover.count; i++)
		failed += job.bad[i] != 0;
	if (mt_fabric_rank(job.fabric) == 0) {
		tell(&job, argc);
		clean_up(&job);
	}
	make_up_end(&job.made);
	mt_group_destroy(job.world);
	mt_fabric_destroy(job.fabric);
	return failed > 0;
}
