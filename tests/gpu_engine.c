/* gpu_engine: the engine on a device against the engine on the host: layouts of 1, 2 or 4 ranks that share one GPU, their
 * collectives staged through host memory, and runs of 50 steps.
 *   gpu_engine [DEVICE [few]]         (cuda; few: fewer layouts and steps, and small models only); alone, or under mpirun with 2 or
 * 4 ranks
 *
 * Layouts train to the losses of one rank on the plain device: f32 to a relative 1e-6 at the first of 20 steps and 1e-4 at the
 * last, bf16 and f16 to 2e-2; twice to the same bits, each second one a third time in graphs where the device has them. Alone, 50
 * steps follow, held against the cpu device: f32 to 1e-6 at the first and 1e-3 at the last, as differences of rounding grow with
 * the steps, bf16 and f16 to 2e-2. A loss that is no number never passes. */
#include "engine/engine.h"
#include "tests/gpu_device.h"

#include <math.h>

enum { STEPS = 20, FEW_STEPS = 5, MOST_STEPS = 50, MODELS = 2, TYPES = 3 };

static const char *const models[MODELS] = {"gpt-tiny", "llama-tiny"};
static const enum mt_dtype types[TYPES] = {MT_F32, MT_BF16, MT_F16};

struct job {
	struct mt_device *device;
	struct mt_fabric *fabric;
	struct mt_group *world;
	int passed, failed;
	bool leader, few;
};

struct layout {
	int ranks, tp, pp, dp, sp, zero, recompute, schedule, vp; /* vp 0: as by default */
};

static const struct layout layouts[] = {
	{1, 1, 1, 1, 0, 0, MT_RECOMPUTE_NONE, MT_SCHEDULE_1F1B, 0},  {1, 1, 1, 1, 0, 0, MT_RECOMPUTE_FULL, MT_SCHEDULE_1F1B, 0},
	{2, 2, 1, 1, 0, 0, MT_RECOMPUTE_NONE, MT_SCHEDULE_1F1B, 0},  {2, 2, 1, 1, 1, 0, MT_RECOMPUTE_FULL, MT_SCHEDULE_1F1B, 0},
	{2, 1, 2, 1, 0, 0, MT_RECOMPUTE_NONE, MT_SCHEDULE_1F1B, 0},  {2, 1, 1, 2, 0, 0, MT_RECOMPUTE_NONE, MT_SCHEDULE_1F1B, 0},
	{2, 1, 1, 2, 0, 1, MT_RECOMPUTE_FULL, MT_SCHEDULE_1F1B, 0},  {2, 1, 2, 1, 0, 0, MT_RECOMPUTE_NONE, MT_SCHEDULE_1F1B, 2},
	{2, 1, 2, 1, 0, 0, MT_RECOMPUTE_NONE, MT_SCHEDULE_ZB_H1, 1}, {4, 4, 1, 1, 1, 0, MT_RECOMPUTE_NONE, MT_SCHEDULE_1F1B, 0},
	{4, 1, 4, 1, 0, 0, MT_RECOMPUTE_NONE, MT_SCHEDULE_1F1B, 0},  {4, 1, 1, 4, 0, 1, MT_RECOMPUTE_NONE, MT_SCHEDULE_1F1B, 0},
	{4, 2, 2, 1, 1, 0, MT_RECOMPUTE_FULL, MT_SCHEDULE_1F1B, 0},  {4, 2, 1, 2, 0, 1, MT_RECOMPUTE_NONE, MT_SCHEDULE_1F1B, 0},
	{4, 1, 2, 2, 0, 1, MT_RECOMPUTE_NONE, MT_SCHEDULE_1F1B, 0},  {4, 1, 2, 2, 0, 1, MT_RECOMPUTE_NONE, MT_SCHEDULE_1F1B, 2},
	{4, 1, 2, 2, 0, 0, MT_RECOMPUTE_NONE, MT_SCHEDULE_ZB_V, 2},
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

/* Context parallelism: one layout of each kind. */
static const struct {
	struct layout beside;
	int cp, kind, inner;
} contexts[] = {
	{{2, 1, 1, 1, 0, 0, MT_RECOMPUTE_NONE, MT_SCHEDULE_1F1B, 0}, 2, MT_CONTEXT_RING, 1},
	{{2, 1, 1, 1, 0, 1, MT_RECOMPUTE_FULL, MT_SCHEDULE_1F1B, 0}, 2, MT_CONTEXT_ALL_GATHER, 1},
	{{2, 1, 1, 1, 0, 0, MT_RECOMPUTE_NONE, MT_SCHEDULE_1F1B, 0}, 2, MT_CONTEXT_ULYSSES, 1},
	{{4, 1, 1, 1, 0, 1, MT_RECOMPUTE_NONE, MT_SCHEDULE_1F1B, 0}, 4, MT_CONTEXT_HYBRID, 2},
};
enum { CONTEXTS = sizeof contexts / sizeof *contexts };

static enum mt_status set_run(struct mt_run *run, const char *model, enum mt_dtype dtype)
{
	mt_run_default(run);
	MT_TRY(mt_model_load(&run->model, model));
	run->layout.gbs = 8;
	run->layout.seq = 16;
	run->layout.mbs = 1;
	run->layout.dtype = dtype;
	run->layout.threads = 1;
	run->layout.bucket_bytes = 64 << 10; /* several buckets */
	run->train.steps = run->train.decay_steps = STEPS;
	run->train.warmup_steps = 2;
	run->train.lr = 3e-3;
	return MT_OK;
}

/* The losses of all steps of a run, on every rank of the fabric. */
static enum mt_status train(const struct mt_run *run, struct mt_fabric *fabric, struct mt_device *device, double *losses,
			    struct mt_graph_stats *graphs)
{
	struct mt_engine_config config = {.run = run, .fabric = fabric, .device = device};
	struct mt_dataset *dataset = NULL;
	struct mt_engine *engine = NULL;
	struct mt_step_stats stats;
	enum mt_status st;

	MT_GOTO(out, mt_dataset_open(&dataset, &run->data, run->model.vocab, run->layout.seq, (uint64_t)run->train.seed));
	config.dataset = dataset;
	MT_GOTO(out, mt_engine_create(&engine, &config));
	for (int step = 0; step < run->train.steps; step++) {
		MT_GOTO(out, mt_engine_step(engine, &stats));
		losses[step] = stats.loss;
	}
	*graphs = mt_engine_graph_stats(engine);
out:
	mt_engine_destroy(engine);
	mt_dataset_close(dataset);
	return st;
}

/* The same on a device of the host. */
static enum mt_status train_on_host(const struct mt_run *run, struct mt_fabric *fabric, const char *kind, double *losses)
{
	struct mt_device *device = NULL;
	struct mt_device_config config = {.kind = kind, .threads = (int)run->layout.threads};
	struct mt_graph_stats none;
	enum mt_status st = mt_device_create(&device, &config);
	if (st == MT_OK)
		st = train(run, fabric, device, losses, &none);
	mt_device_destroy(device);
	return st;
}

static bool are_close(const struct mt_run *run, const double *got, const double *want, double last_bound, char why[200])
{
	const int steps = (int)run->train.steps;
	for (int step = 0; step < steps; step++) {
		double error = fabs(got[step] - want[step]) / fabs(want[step]);
		double bound = run->layout.dtype != MT_F32 ? 2e-2 : 1e-6 + (last_bound - 1e-6) * step / (steps - 1);
		if (!(error <= bound)) {
			snprintf(why, 200, "step %d: loss %.9g, expected %.9g, relative error %.2g above %.2g", step, got[step],
				 want[step], error, bound);
			return false;
		}
	}
	snprintf(why, 200, "loss %.6f to %.6f, expected %.6f", got[0], got[steps - 1], want[steps - 1]);
	return true;
}

static void tell(struct job *job, const struct mt_run *run, bool ok, const char *why)
{
	char text[96];
	ok ? job->passed++ : job->failed++;
	if (!job->leader)
		return;
	mt_layout_text(&run->layout, text);
	printf("%-6s %s, %lld steps, %s: %s\n", ok ? "ok" : "FAILED", run->model.name, (long long)run->train.steps, text, why);
	fflush(stdout);
}

/* A failure on one rank leaves the others waiting: that is the end of the job. */
static void need(struct job *job, enum mt_status st)
{
	if (st == MT_OK)
		return;
	fprintf(stderr, "rank %d: %s\n", mt_fabric_rank(job->fabric), mt_error_message());
	mt_fabric_abort(job->fabric, 4);
	exit(4);
}

/* The same bits in graphs as without, and most lists of operations are launched as one. */
static void run_graphs(struct job *job, struct mt_run *run, enum mt_graphs_choice choice, const double *want)
{
	double got[STEPS] = {0};
	struct mt_graph_stats graphs = {0};
	char why[512];
	if (choice == MT_GRAPHS_OFF || !mt_device_has_graphs(job->device))
		return;
	run->train.cuda_graphs = choice;
	need(job, train(run, job->fabric, job->device, got, &graphs));
	run->train.cuda_graphs = MT_GRAPHS_OFF;
	bool same = memcmp((const char *)got, (const char *)want, sizeof got) == 0;
	snprintf(why, sizeof why, "in graphs of a %s: %s bits, %lld launched, %lld lists missed, %lld refused%s%s",
		 choice == MT_GRAPHS_PASS ? "pass" : "layer", same ? "the same" : "other", (long long)graphs.launched,
		 (long long)graphs.missed, (long long)graphs.refused, graphs.refused ? ": " : "", graphs.reason);
	tell(job, run, same && graphs.launched > graphs.missed && graphs.refused == 0, why);
}

static void run_layout(struct job *job, const struct layout *l, struct mt_run *run, enum mt_graphs_choice graphs,
		       const double *want)
{
	struct mt_graph_stats none;
	double got[STEPS] = {0}, again[STEPS] = {0};
	char why[200];
	run->layout.tp = l->tp, run->layout.pp = l->pp, run->layout.dp = l->dp;
	run->layout.sp = l->sp, run->layout.zero = l->zero;
	run->layout.recompute = l->recompute, run->layout.schedule = l->schedule;
	run->layout.vp = l->vp ? l->vp : 1;
	need(job, mt_run_check(run, "gpu_engine"));
	need(job, train(run, job->fabric, job->device, got, &none));
	need(job, train(run, job->fabric, job->device, again, &none));
	bool ok = are_close(run, got, want, 1e-4, why);
	if (ok && memcmp((const char *)got, (const char *)again, sizeof got) != 0) {
		ok = false;
		snprintf(why, sizeof why, "the second run of the same layout differs in its bits");
	}
	tell(job, run, ok, why);
	run_graphs(job, run, graphs, got);
}

/* Of one rank on the plain device: each case by another rank, told to all. */
static void train_alone(struct job *job, double want[MODELS * TYPES][STEPS])
{
	struct mt_fabric *alone = NULL;
	memset(want, 0, sizeof(double) * MODELS * TYPES * STEPS);
	need(job, mt_fabric_block(&alone, job->fabric, 1));
	for (int i = 0; i < MODELS * TYPES; i++) {
		struct mt_run run;
		if (i % mt_fabric_size(job->fabric) != mt_fabric_rank(job->fabric))
			continue;
		need(job, set_run(&run, models[i / TYPES], types[i % TYPES]));
		if (job->few)
			run.train.steps = FEW_STEPS;
		need(job, train_on_host(&run, alone, "reference", want[i]));
		mt_run_free(&run);
	}
	need(job, mt_comm_host_all_reduce(job->world, &want[0][0], MODELS * TYPES * STEPS, MT_SUM));
	mt_fabric_destroy(alone);
}

static void run_layouts(struct job *job)
{
	double want[MODELS * TYPES][STEPS];
	train_alone(job, want);
	for (int i = 0, turn = 0; i < LAYOUTS + CONTEXTS; i++) {
		const struct layout *l = i < LAYOUTS ? &layouts[i] : &contexts[i - LAYOUTS].beside;
		if (l->ranks != mt_fabric_size(job->fabric))
			continue;
		for (int c = 0; c < MODELS * TYPES; c++, turn++) {
			struct mt_run run;
			if (job->few && turn % 9)
				continue;
			need(job, set_run(&run, models[c / TYPES], types[c % TYPES]));
			if (job->few)
				run.train.steps = FEW_STEPS;
			if (i >= LAYOUTS) {
				run.layout.cp = contexts[i - LAYOUTS].cp;
				run.layout.cp_kind = contexts[i - LAYOUTS].kind;
				run.layout.cp_inner = contexts[i - LAYOUTS].inner;
			}
			run_layout(job, l, &run, turn % 2 ? MT_GRAPHS_OFF : turn % 4 ? MT_GRAPHS_PASS : MT_GRAPHS_LAYER, want[c]);
			mt_run_free(&run);
		}
	}
}

/* On one rank: 50 steps on the device and on the cpu device. */
static void run_long(struct job *job, const char *model, enum mt_dtype dtype, int64_t seq)
{
	double got[MOST_STEPS], want[MOST_STEPS];
	struct mt_graph_stats none;
	struct mt_run run;
	char why[200];
	need(job, set_run(&run, model, dtype));
	run.layout.seq = seq;
	run.layout.mbs = 4;
	run.layout.threads = seq > 16 ? 0 : 1; /* more only get in each other's way in a small model */
	run.train.steps = run.train.decay_steps = MOST_STEPS;
	run.train.lr = seq > 16 ? 3e-4 : 3e-3;
	need(job, train_on_host(&run, job->fabric, "cpu", want));
	need(job, train(&run, job->fabric, job->device, got, &none));
	tell(job, &run, are_close(&run, got, want, 1e-3, why), why);
	mt_run_free(&run);
}

/* Whether every rank has its device: MT_OK on all or on none. */
static enum mt_status open_device(struct job *job, const char *kind)
{
	enum mt_status st = gpu_device_open(&job->device, kind, mt_fabric_local_rank(job->fabric));
	double worst = st;
	need(job, mt_comm_host_all_reduce(job->world, &worst, 1, MT_MAX));
	if (st == MT_OK && worst != MT_OK)
		st = mt_fail((enum mt_status)worst, "another rank has no device");
	return st;
}

static void run_all(struct job *job)
{
	run_layouts(job);
	if (mt_fabric_size(job->fabric) > 1)
		return;
	for (int i = 0; i < MODELS * TYPES; i += job->few ? 4 : 1)
		run_long(job, models[i / TYPES], types[i % TYPES], 16);
	for (int i = 0; i < TYPES && !job->few; i++)
		run_long(job, "gpt2-124m", types[i], 64);
}

int main(int argc, char **argv)
{
	struct job job = {.few = argc > 2 && strcmp(argv[2], "few") == 0};
	struct mt_fabric_config config = {.kind = mt_fabric_launched_kind()};
	enum mt_status st = mt_fabric_create(&job.fabric, &config);
	int ranks[4] = {0, 1, 2, 3}, missing = 0;

	if (st != MT_OK)
		return gpu_device_missing(st);
	const int size = mt_fabric_size(job.fabric);
	job.leader = mt_fabric_rank(job.fabric) == 0;
	if (size > 4 || size == 3) {
		fprintf(stderr, "gpu_engine: 1, 2 or 4 ranks, not %d\n", size);
		mt_fabric_abort(job.fabric, 2);
	}
	need(&job, mt_group_create(job.fabric, "test", ranks, size, &job.world));
	st = open_device(&job, argc > 1 ? argv[1] : "cuda");
	if (st == MT_OK)
		run_all(&job);
	else if (job.leader)
		missing = gpu_device_missing(st);
	if (st == MT_OK && job.leader)
		printf("%d passed, %d failed, 0 skipped\n", job.passed, job.failed);
	mt_device_destroy(job.device);
	mt_group_destroy(job.world);
	mt_fabric_destroy(job.fabric);
	return missing ? missing : job.failed > 0;
}
