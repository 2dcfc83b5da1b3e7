/* The dry run's peaks are the live engine's, byte for byte and arena by arena, for every layout of up to 4 ranks.
 * ranks: 2 4
 *
 * Layouts smaller than the job run as several copies side by side on blocks of its ranks. Every rank compares its own arenas
 * with the prediction for its stage. */
#include "tests/engine_problem.h"
#include "tests/tuner_problem.h"

struct counts {
	int passed, failed, skipped;
};

/* Runs the layout live on this rank's block; `why` says what differs, "" when nothing. */
static enum mt_status compare(const struct mt_run *run, struct mt_fabric *block, struct made_up *made, char why[200])
{
	struct mt_candidate candidate = {.layout = run->layout};
	struct mt_arena_stats live[MT_ENGINE_ARENAS];
	struct engine_bench bench = {0};
	const struct mt_stage_prediction *stage;
	struct mt_step_stats stats;
	enum mt_status st;

	made->cost.train = &run->train;
	MT_GOTO(out, mt_predict_dry(&candidate, &run->model, &made->cost, NULL));
	MT_GOTO(out, open_engine(&bench, run, "cpu", block));
	for (int i = 0; i < 2; i++)
		MT_GOTO(out, mt_engine_step(bench.engine, &stats));
	mt_engine_memory(bench.engine, live);
	stage = &candidate.stage[mt_layout_coordinates(&run->layout, mt_fabric_rank(block)).pp];
	if (stage->host_bytes != (int64_t)mt_engine_host_bytes(bench.engine))
		snprintf(why, 200, "rank %d: host peak %lld dry, %zu live", mt_fabric_rank(block), (long long)stage->host_bytes,
			 mt_engine_host_bytes(bench.engine));
	for (int i = 0; i < MT_ENGINE_ARENAS; i++) {
		if (stage->arena_bytes[i] != (int64_t)live[i].peak_bytes)
			snprintf(why, 200, "rank %d: %s peak %lld dry, %zu live", mt_fabric_rank(block), live[i].name,
				 (long long)stage->arena_bytes[i], live[i].peak_bytes);
	}
out:
	close_engine(&bench);
	free_candidate(&candidate);
	return st;
}

/* All ranks learn whether any of them found a difference. */
static bool all_agree(struct mt_group *world, bool ok)
{
	double bad = !ok;

	return mt_comm_host_all_reduce(world, &bad, 1, MT_MAX) == MT_OK && bad == 0;
}

static void run_layout(struct counts *counts, const struct mt_run *run, struct mt_fabric *fabric, struct mt_group *world,
		       struct made_up *made)
{
	struct mt_fabric *block = NULL;
	char why[200] = "", text[96];
	enum mt_status st = mt_fabric_block(&block, fabric, (int)mt_layout_world(&run->layout));

	if (st == MT_OK)
		st = compare(run, block, made, why);
	mt_fabric_destroy(block);
	if (st != MT_OK)
		snprintf(why, sizeof why, "%.190s", mt_error_message());
	mt_layout_text(&run->layout, text);
	if (why[0])
		printf("FAILED %s %s: %s\n", run->model.name, text, why);
	if (all_agree(world, !why[0]))
		counts->passed++;
	else
		counts->failed++;
}

/* Switches of one (tp, pp, dp): sharding and sequence parallelism on and off, and the others in turn. */
static void run_switches(struct counts *counts, struct mt_run *run, struct mt_fabric *fabric, struct mt_group *world,
			 struct made_up *made, int *turn)
{
	struct mt_layout *l = &run->layout;

	for (int sp = 0; sp <= (l->tp > 1); sp++) {
		for (int sharded = 0; sharded <= (l->dp > 1); sharded++) {
			l->sp = sp;
			l->zero = sharded ? 1 + *turn % 3 : 0;
			l->zero_group = sharded && l->dp == 4 && *turn % 2 ? 2 : 0;
			l->recompute = *turn % 3;
			l->recompute_attention = *turn % 4 == 1;
			l->dtype = *turn % 3 == 1 ? MT_BF16 : *turn % 6 == 5 ? MT_F16 : MT_F32;
			l->reduce_dtype = *turn % 5 >= 3 && l->zero < 2 ? MT_BF16 : MT_F32;
			l->moment1_dtype = *turn % 4 == 3 ? MT_BF16 : MT_F32;
			l->moment2_dtype = *turn % 4 >= 2 ? MT_BF16 : MT_F32;
			l->mbs = *turn / 2 % 2 + 1;
			l->bucket_bytes = *turn % 5 < 2 ? 2 << 10 : 0;
			run->train.optimizer = *turn % 4 == 3 ? MT_MUON : MT_ADAMW;
			l->offload_layers = *turn % 5 == 2 ? *turn % 3 + 1 : 0;
			++*turn;
			run_layout(counts, run, fabric, world, made);
		}
	}
}

/* Interleaved and zero-bubble schedules, on half the tensor-parallel switches. */
static void run_schedules(struct counts *counts, struct mt_run *run, struct mt_fabric *fabric, struct mt_group *world,
			  struct made_up *made)
{
	static const struct {
		enum mt_schedule schedule;
		int vp, group;
	} kinds[] = {{MT_SCHEDULE_1F1B, 2, 0}, {MT_SCHEDULE_1F1B, 2, 4}, {MT_SCHEDULE_ZB_H1, 1, 0}, {MT_SCHEDULE_ZB_V, 2, 0}};
	const struct mt_layout plain = run->layout;
	struct mt_layout *l = &run->layout;
	int size = mt_fabric_size(fabric), turn = 0;

	for (l->pp = 2; l->pp <= size && l->pp <= 4; l->pp *= 2) {
		for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
			l->tp = size / l->pp >= 2 ? 2 : 1;
			l->dp = 1;
			l->schedule = kinds[i].schedule;
			l->vp = kinds[i].vp;
			l->vp_group = kinds[i].group;
			l->sp = l->tp > 1 && turn % 2 == 0;
			l->zero = 0;
			l->mbs = 1;
			l->dtype = turn % 3 == 1 ? MT_BF16 : MT_F32;
			l->recompute = turn % 4 == 3 ? MT_RECOMPUTE_FULL : MT_RECOMPUTE_NONE;
			turn++;
			run_layout(counts, run, fabric, world, made);
		}
	}
	*l = plain;
}

/* Context parallelism of every kind and documents apart, with the other switches in turn. */
static void run_contexts(struct counts *counts, struct mt_run *run, struct mt_fabric *fabric, struct mt_group *world,
			 struct made_up *made)
{
	static const struct {
		int kind, cp, inner, tp, pp, dp;
	} kinds[] = {{MT_CONTEXT_RING, 1, 1, 2, 1, 1},       {MT_CONTEXT_RING, 2, 1, 1, 1, 1},
		     {MT_CONTEXT_ALL_GATHER, 2, 1, 1, 1, 1}, {MT_CONTEXT_ULYSSES, 2, 1, 1, 1, 1},
		     {MT_CONTEXT_RING, 4, 1, 1, 1, 1},       {MT_CONTEXT_HYBRID, 4, 2, 1, 1, 1},
		     {MT_CONTEXT_RING, 2, 1, 2, 1, 1},       {MT_CONTEXT_ALL_GATHER, 2, 1, 1, 2, 1},
		     {MT_CONTEXT_ULYSSES, 2, 1, 1, 1, 2},    {MT_CONTEXT_ULYSSES, 2, 1, 1, 2, 1}};
	const struct mt_layout plain = run->layout;
	struct mt_layout *l = &run->layout;

	for (int turn = 0; turn < 2 * (int)(sizeof kinds / sizeof *kinds); turn++) {
		int i = turn / 2;

		l->cp_kind = kinds[i].kind, l->cp = kinds[i].cp, l->cp_inner = kinds[i].inner;
		l->tp = kinds[i].tp, l->pp = kinds[i].pp, l->dp = kinds[i].dp;
		l->documents = turn % 2;
		l->sp = l->tp > 1 && turn % 3;
		l->zero = l->cp * l->dp > 1 && turn % 4 == 1;
		l->mbs = 1 + turn % 2;
		l->recompute = turn % 3;
		l->recompute_attention = turn % 4 < 2;
		l->schedule = l->pp > 1 && turn % 2 ? MT_SCHEDULE_ZB_H1 : MT_SCHEDULE_1F1B;
		l->dtype = turn % 3 == 1 ? MT_BF16 : MT_F32;
		if (mt_layout_world(l) == mt_fabric_size(fabric))
			run_layout(counts, run, fabric, world, made);
	}
	*l = plain;
}

/* fp8, whose widths must be multiples of 16: a model of its own. */
static void run_fp8(struct counts *counts, struct mt_run *run, struct mt_fabric *fabric, struct mt_group *world,
		    struct made_up *made)
{
	static const struct {
		int tp, pp, recompute, fp8;
		bool sp, wgrad;
		enum mt_schedule schedule;
	} rows[] = {{1, 1, MT_RECOMPUTE_NONE, MT_FP8_DELAYED, false, true, MT_SCHEDULE_1F1B},
		    {2, 1, MT_RECOMPUTE_SELECTIVE, MT_FP8_CURRENT, true, true, MT_SCHEDULE_1F1B},
		    {1, 2, MT_RECOMPUTE_FULL, MT_FP8_CURRENT, false, false, MT_SCHEDULE_1F1B},
		    {1, 2, MT_RECOMPUTE_NONE, MT_FP8_DELAYED, false, true, MT_SCHEDULE_ZB_H1},
		    {2, 2, MT_RECOMPUTE_NONE, MT_FP8_CURRENT, true, true, MT_SCHEDULE_ZB_H1}};
	struct mt_layout *l = &run->layout;

	run->model.hidden = 64;
	run->model.head_dim = 64 / run->model.heads;
	run->model.ffn = 128;
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		if (mt_fabric_size(fabric) % (rows[i].tp * rows[i].pp))
			continue;
		l->tp = rows[i].tp;
		l->pp = rows[i].pp;
		l->recompute = rows[i].recompute;
		l->fp8 = rows[i].fp8;
		l->fp8_wgrad = rows[i].wgrad;
		l->sp = rows[i].sp;
		l->schedule = rows[i].schedule;
		l->dtype = i % 2 ? MT_BF16 : MT_F16;
		l->mbs = 2;
		run_layout(counts, run, fabric, world, made);
	}
}

static void run_model(struct counts *counts, const struct tiny_model *model, struct mt_fabric *fabric, struct mt_group *world,
		      struct made_up *made)
{
	int size = mt_fabric_size(fabric), turn = 0;
	struct mt_run run;

	set_tiny_run(&run, model);
	run.model.layers = 5;
	run.layout.gbs = 8;
	/* twice, with the switches that go in turn the other way round */
	for (int round = 0; round < 2; round++, turn++) {
		for (run.layout.tp = 1; run.layout.tp <= model->kv_heads; run.layout.tp *= 2) {
			for (run.layout.pp = 1; run.layout.tp * run.layout.pp <= size; run.layout.pp++) {
				for (run.layout.dp = 1; mt_layout_world(&run.layout) <= size; run.layout.dp *= 2) {
					if (size % mt_layout_world(&run.layout) == 0)
						run_switches(counts, &run, fabric, world, made, &turn);
				}
			}
		}
	}
	run.model.layers = 9;
	run.layout.tp = run.layout.pp = run.layout.dp = 1;
	run_schedules(counts, &run, fabric, world, made);
	run_contexts(counts, &run, fabric, world, made);
	run_fp8(counts, &run, fabric, world, made);
	mt_run_free(&run);
}

static enum mt_status make_world(struct mt_fabric *fabric, struct mt_group **world)
{
	int ranks[64], size = mt_fabric_size(fabric);

	if (size > 64)
		return mt_fail(MT_INPUT, "at most 64 ranks, not %d", size);
	for (int i = 0; i < size; i++)
		ranks[i] = i;
	return mt_group_create(fabric, "test", ranks, size, world);
}

int main(void)
{
	struct mt_fabric_config config = {.kind = mt_fabric_launched() ? "mpi" : "self"};
	struct counts counts = {0};
	struct mt_fabric *fabric = NULL;
	struct mt_group *world = NULL;
	struct made_up made;

	if (mt_fabric_create(&fabric, &config) != MT_OK || make_world(fabric, &world) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		return 4;
	}
	make_up(&made, mt_fabric_size(fabric), 1, 10, 1e10, 1e10, 1e-6);
	run_model(&counts, &TINY_GPT, fabric, world, &made);
	run_model(&counts, &TINY_LLAMA, fabric, world, &made);
	make_up_end(&made);
	if (mt_fabric_rank(fabric) == 0)
		printf("%d passed, %d failed, %d skipped\n", counts.passed, counts.failed, counts.skipped);
	mt_group_destroy(world);
	mt_fabric_destroy(fabric);
	return counts.failed > 0;
}
