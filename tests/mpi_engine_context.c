/* Context parallelism of every kind trains as one rank does, and so do documents kept apart.
 * ranks: 2 4 8
 *
 * Each row is a layout; those smaller than the job run as several copies side by side. Against one rank on the plain device: the
 * losses of all steps (f32 1e-4 relative, bf16 2e-2), and every gradient tensor of the first (relative norm, f32 1e-5, bf16 2e-2).
 * The same layout twice gives the same bits. */
#include "base/random.h"
#include "engine/data.h"
#include "tests/engine_problem.h"

#include <math.h>
#include <unistd.h>

enum { STEPS = 4, MOST_PARAMS = 160, SEQ = 32 };

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

struct counts {
	int passed, failed, skipped;
};

/* Losses, and the gradients of the first step of each parameter that is here. */
struct result {
	double losses[STEPS];
	int count;
	char names[MOST_PARAMS][64];
	struct mt_param_info infos[MOST_PARAMS];
	double *gradients[MOST_PARAMS]; /* owned */
};

static void free_result(struct result *r)
{
	for (int i = 0; i < r->count; i++)
		free(r->gradients[i]);
	memset(r, 0, sizeof *r);
}

static void set_run(struct mt_run *run, const struct row *row, char *path)
{
	struct mt_layout *l = &run->layout;

	static const struct tiny_model *const models[] = {&TINY_GPT, &TINY_LLAMA, &TINY_QWEN, &TINY_DEEPSEEK};

	set_tiny_run(run, models[row->model]);
	run->model.layers = row->dtype == MT_BF16 ? 2 : 5;
	run->model.seq = SEQ;
	run->model.init_std = 0.15; /* larger weights would make more of the rounding errors of f32 */
	run->train.warmup_steps = 1;
	run->train.lr = 1e-2;
	run->data.path = path;
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

static enum mt_status read_gradients(struct mt_engine *engine, struct result *r)
{
	r->count = mt_engine_param_count(engine);
	if (r->count > MOST_PARAMS)
		return mt_fail(MT_FAILED, "%d parameters", r->count);
	for (int i = 0; i < r->count; i++) {
		mt_engine_param_info(engine, i, &r->infos[i]);
		snprintf(r->names[i], sizeof r->names[i], "%s", r->infos[i].name);
		r->gradients[i] = calloc((size_t)(r->infos[i].rows * r->infos[i].cols), sizeof(double));
		if (!r->gradients[i])
			return mt_fail(MT_NOMEM, "no memory");
		MT_TRY(mt_engine_read_grad_f64(engine, i, r->gradients[i]));
	}
	return MT_OK;
}

static enum mt_status train(const struct mt_run *run, const char *device, struct mt_fabric *fabric, struct result *r)
{
	struct engine_bench bench = {0};
	enum mt_status st;

	MT_GOTO(out, open_engine(&bench, run, device, fabric));
	for (int step = 0; step < STEPS; step++) {
		struct mt_step_stats stats;

		MT_GOTO(out, mt_engine_step(bench.engine, &stats));
		r->losses[step] = stats.loss;
		if (step == 0)
			MT_GOTO(out, read_gradients(bench.engine, r));
	}
out:
	close_engine(&bench);
	return st;
}

static double norm_of(const struct result *r, int i)
{
	double sum = 0;

	for (int64_t j = 0; j < r->infos[i].rows * r->infos[i].cols; j++)
		sum += pow(r->gradients[i][j], 2);
	return sqrt(sum);
}

/* The gradient of a shard against its place in that of the whole parameter. Relative to its norm, or to a hundredth of that of all
 * gradients: those of keys' biases are zero but for rounding. */
static double gradient_error(const struct result *got, int i, const struct result *want, int k)
{
	const struct mt_param_info *info = &got->infos[i], *whole = &want->infos[k];
	double error = 0, all = 0;

	for (int64_t row = 0; row < info->rows; row++) {
		for (int64_t col = 0; col < info->cols; col++) {
			int64_t at_row = row + (info->shard_axis == 0 ? info->first : 0);
			int64_t at_col = col + (info->shard_axis == 1 ? info->first : 0);
			/* padding words come after the real ones */
			double w = at_row < whole->rows ? want->gradients[k][at_row * whole->cols + at_col] : 0;

			error += pow(got->gradients[i][row * info->cols + col] - w, 2);
		}
	}
	for (int j = 0; j < want->count; j++)
		all += pow(norm_of(want, j), 2);
	return sqrt(error) / fmax(norm_of(want, k), 1e-2 * sqrt(all));
}

static void compare(const struct row *row, const struct result *got, const struct result *want, char why[200])
{
	double loss_bound = row->dtype == MT_BF16 ? 2e-2 : 1e-4, bound = row->dtype == MT_BF16 ? 2e-2 : 1e-5;

	for (int step = 0; step < STEPS; step++) {
		if (!(fabs(got->losses[step] - want->losses[step]) <= loss_bound * fabs(want->losses[step])))
			snprintf(why, 200, "step %d: loss %.9g, one rank %.9g", step, got->losses[step], want->losses[step]);
	}
	for (int i = 0; i < got->count; i++) {
		int k = 0;

		while (k < want->count && strcmp(got->names[i], want->names[k]) != 0)
			k++;
		double error = k < want->count ? gradient_error(got, i, want, k) : 1;
		if (!(error <= bound))
			snprintf(why, 200, "gradient of %s differs by %.3g of its norm", got->names[i], error);
	}
}

/* Of one rank, by model, type and whether documents are apart. */
static struct result references[4][2][2];

static enum mt_status reference_of(const struct row *row, char *path, struct mt_fabric *fabric, struct result **reference)
{
	struct row plain = {.kind = RING,
			    .cp = 1,
			    .inner = 1,
			    .tp = 1,
			    .pp = 1,
			    .vp = 1,
			    .dp = 1,
			    .mbs = 1,
			    .dtype = row->dtype,
			    .model = row->model};
	struct mt_fabric *alone = NULL;
	struct mt_run run;
	enum mt_status st;

	*reference = &references[row->model][row->dtype == MT_BF16][row->apart];
	if ((*reference)->count)
		return MT_OK;
	plain.apart = row->apart;
	set_run(&run, &plain, path);
	MT_GOTO(out, mt_fabric_block(&alone, fabric, 1));
	MT_GOTO(out, train(&run, "reference", alone, *reference));
out:
	mt_fabric_destroy(alone);
	run.data.path = NULL;
	mt_run_free(&run);
	return st;
}

static bool all_agree(struct mt_group *world, bool ok)
{
	double bad = !ok;

	return mt_comm_host_all_reduce(world, &bad, 1, MT_MAX) == MT_OK && bad == 0;
}

static void run_row(struct counts *counts, const struct row *row, bool twice, char *path, struct mt_fabric *fabric,
		    struct mt_group *world)
{
	struct result got = {0}, again = {0}, *want = NULL;
	struct mt_fabric *block = NULL;
	char why[200] = "", text[96];
	struct mt_run run;
	enum mt_status st;

	set_run(&run, row, path);
	MT_GOTO(out, reference_of(row, path, fabric, &want));
	MT_GOTO(out, mt_fabric_block(&block, fabric, (int)mt_layout_world(&run.layout)));
	MT_GOTO(out, train(&run, "cpu", block, &got));
	compare(row, &got, want, why);
	if (twice) {
		MT_GOTO(out, train(&run, "cpu", block, &again));
		if (memcmp((const char *)got.losses, (const char *)again.losses, sizeof got.losses) != 0)
			snprintf(why, sizeof why, "the second run of the same layout differs in its bits");
	}
out:
	mt_fabric_destroy(block);
	if (st != MT_OK)
		snprintf(why, sizeof why, "%.190s", mt_error_message());
	mt_error_clear();
	mt_layout_text(&run.layout, text);
	if (why[0])
		printf("FAILED %s %s rank %d: %s\n", run.model.name, text, mt_fabric_rank(fabric), why);
	if (all_agree(world, !why[0]))
		counts->passed++;
	else
		counts->failed++;
	free_result(&got);
	free_result(&again);
	run.data.path = NULL;
	mt_run_free(&run);
}

/* Documents of 1 to 20 tokens, in the directory of temporary files of rank 0. */
static enum mt_status write_documents(struct mt_fabric *fabric, struct mt_group *world, char path[200])
{
	enum { DOCUMENTS = 120 };
	static int32_t tokens[DOCUMENTS][20];
	const int32_t *pointers[DOCUMENTS];
	int64_t lengths[DOCUMENTS];
	double place = 0;
	enum mt_status st = MT_OK;

	if (mt_fabric_rank(fabric) == 0)
		place = (double)getpid();
	MT_TRY(mt_comm_host_all_reduce(world, &place, 1, MT_MAX));
	snprintf(path, 200, "%s/context%d", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", (int)place);
	for (int d = 0; d < DOCUMENTS; d++) {
		lengths[d] = 1 + (int64_t)mt_random_integer(3, 1, (uint64_t)d, 20);
		for (int64_t t = 0; t < lengths[d]; t++)
			tokens[d][t] = (int32_t)mt_random_integer(3, 2 + (uint64_t)d, (uint64_t)t, TINY_VOCAB);
		pointers[d] = tokens[d];
	}
	if (mt_fabric_rank(fabric) == 0)
		st = mt_indexed_write(path, pointers, lengths, DOCUMENTS, TINY_VOCAB);
	MT_TRY(mt_comm_barrier(world));
	return st;
}

static void remove_documents(const char *path)
{
	char name[220];

	snprintf(name, sizeof name, "%s.bin", path);
	unlink(name);
	snprintf(name, sizeof name, "%s.idx", path);
	unlink(name);
}

int main(void)
{
	struct mt_fabric_config config = {.kind = mt_fabric_launched() ? "mpi" : "self"};
	struct counts counts = {0};
	struct mt_fabric *fabric = NULL;
	struct mt_group *world = NULL;
	char path[200] = "";
	int ranks[64], size;

	if (mt_fabric_create(&fabric, &config) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		return 4;
	}
	size = mt_fabric_size(fabric);
	for (int i = 0; i < size && i < 64; i++)
		ranks[i] = i;
	if (mt_group_create(fabric, "test", ranks, size, &world) != MT_OK || write_documents(fabric, world, path) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		return 4;
	}
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		int need = rows[i].cp * rows[i].tp * rows[i].pp * rows[i].dp;

		/* each in the smallest job that holds it */
		if (need == size || (size == 2 && need == 1))
			run_row(&counts, &rows[i], i % 4 == 0, path, fabric, world);
	}
	if (mt_comm_barrier(world) == MT_OK && mt_fabric_rank(fabric) == 0) {
		remove_documents(path);
		printf("%d passed, %d failed, %d skipped\n", counts.passed, counts.failed, counts.skipped);
	}
	for (int i = 0; i < 16; i++)
		free_result(&references[i / 4][i / 2 % 2][i % 2]);
	mt_group_destroy(world);
	mt_fabric_destroy(fabric);
	return counts.failed > 0;
}
