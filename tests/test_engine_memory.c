/* The dry run's peaks are the live engine's, byte for byte and arena by arena, for layouts of one rank. mpi_engine_layouts does
 * the same for layouts of several. */
#include "kernels/scratch.h"
#include "tests/engine_problem.h"
#include "tests/tuner_problem.h"
#include "tuner/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>

#include <cmocka.h>

static const char *const arena_names[MT_ENGINE_ARENAS] = {"parameters", "gradients", "optimizer", "activations", "workspace"};

static void must(enum mt_status st)
{
	if (st != MT_OK)
		fail_msg("%s", mt_error_message());
}

/* Peaks after `steps` steps on the cpu device. */
static void run_live(const struct mt_run *run, int steps, struct mt_arena_stats arenas[MT_ENGINE_ARENAS])
{
	struct engine_bench b;
	struct mt_step_stats stats;

	must(open_engine(&b, run, run->layout.dtype == MT_F64 ? "reference" : "cpu", NULL));
	for (int i = 0; i < steps; i++)
		must(mt_engine_step(b.engine, &stats));
	mt_engine_memory(b.engine, arenas);
	for (int i = 0; i < MT_ENGINE_ARENAS; i++)
		assert_string_equal(arenas[i].name, arena_names[i]);
	close_engine(&b); /* the names go with it */
}

static void compare(const struct mt_run *run, struct made_up *made)
{
	struct mt_candidate candidate = {.layout = run->layout};
	struct mt_arena_stats live[MT_ENGINE_ARENAS];
	char text[96];

	mt_layout_text(&run->layout, text);
	must(mt_predict_dry(&candidate, &run->model, &made->cost, NULL));
	run_live(run, 2, live);
	assert_int_equal(candidate.stages, 1);
	for (int i = 0; i < MT_ENGINE_ARENAS; i++) {
		if (candidate.stage[0].arena_bytes[i] != (int64_t)live[i].peak_bytes)
			fail_msg("%s, %s, %lld micro-batches: %s peak %lld dry, %zu live", run->model.name, text,
				 (long long)mt_layout_microbatches(&run->layout), arena_names[i],
				 (long long)candidate.stage[0].arena_bytes[i], live[i].peak_bytes);
	}
	free_candidate(&candidate);
}

static void dry_run_peaks_are_live_peaks(void **state)
{
	static const struct tiny_model *const models[] = {&TINY_GPT, &TINY_LLAMA};
	static const enum mt_dtype dtypes[] = {MT_F32, MT_BF16, MT_F64};
	struct made_up made;
	int layouts = 0;

	make_up(&made, 1, 1, 10, 1e10, 1e10, 1e-6);
	for (int m = 0; m < 2; m++) {
		struct mt_run run;

		set_tiny_run(&run, models[m]);
		for (int d = 0; d < 3; d++) {
			for (int64_t mbs = 1; mbs <= 4; mbs *= 2) {
				for (int recompute = MT_RECOMPUTE_NONE; recompute <= MT_RECOMPUTE_FULL; recompute++) {
					run.layout.dtype = dtypes[d];
					run.layout.mbs = mbs;
					run.layout.recompute = recompute;
					run.layout.seq = mbs == 2 ? 5 : TINY_SEQ; /* sizes that are no multiple of the alignment */
					run.model.layers = 1 + m + d;
					run.layout.bucket_bytes = d == 1 ? 4 << 10 : 0;
					compare(&run, &made);
					layouts++;
				}
			}
		}
		mt_run_free(&run);
	}
	assert_true(layouts >= 36);
	make_up_end(&made);
}

/* So that a run of many steps needs what its first one needed. */
static void peaks_do_not_grow_with_steps(void **state)
{
	static const struct tiny_model *const models[] = {&TINY_GPT, &TINY_LLAMA};

	for (int m = 0; m < 2; m++) {
		struct mt_arena_stats one[MT_ENGINE_ARENAS], many[MT_ENGINE_ARENAS];
		struct mt_run run;

		set_tiny_run(&run, models[m]);
		run.layout.dtype = MT_BF16;
		run_live(&run, 1, one);
		run_live(&run, 6, many);
		for (int i = 0; i < MT_ENGINE_ARENAS; i++) {
			if (one[i].peak_bytes != many[i].peak_bytes || one[i].live_bytes != many[i].live_bytes)
				fail_msg("%s: %s peak %zu and live %zu after 1 step, %zu and %zu after 6", run.model.name,
					 arena_names[i], one[i].peak_bytes, one[i].live_bytes, many[i].peak_bytes,
					 many[i].live_bytes);
		}
		if (many[3].live_bytes != 0)
			fail_msg("%s: %zu bytes of activations are left after a step", run.model.name, many[3].live_bytes);
		mt_run_free(&run);
	}
}

struct needed {
	int arch;
	size_t bytes;
};

static void note_need(void *context, const struct mt_op *op, const struct mt_stream *stream)
{
	struct needed *n = context;
	size_t bytes = mt_gpu_scratch_bytes(op, n->arch);

	n->bytes = bytes > n->bytes ? bytes : n->bytes;
}

static void note_end(void *context)
{
}

static void on_gpus(struct made_up *made, struct mt_machine_gpu *gpu, int arch)
{
	gpu->arch = arch;
	snprintf(made->machine.device, sizeof made->machine.device, "cuda");
	made->machine.gpus = gpu;
	made->machine.gpu_count = 1;
}

/* Of the operations that the live engine enqueues, on any device. */
static void the_dry_runs_scratch_is_what_the_operations_need(void **state)
{
	static const struct tiny_model *const models[] = {&TINY_GPT, &TINY_LLAMA};
	static const enum mt_dtype dtypes[] = {MT_F32, MT_BF16};
	struct mt_card_cache *cache = NULL;
	struct mt_machine_gpu gpu = {0};
	struct made_up made;

	make_up(&made, 1, 1, 10, 1e10, 1e10, 1e-6);
	for (int i = 0; i < 8; i++) {
		struct needed needed = {.arch = i & 4 ? 80 : 90};
		struct mt_device_observer observer = {.begin = note_need, .end = note_end, .context = &needed};
		struct mt_candidate dry, card;
		struct mt_step_stats stats;
		struct engine_bench b;
		struct mt_run run;

		on_gpus(&made, &gpu, needed.arch);
		set_tiny_run(&run, models[i & 1]);
		run.layout.dtype = dtypes[i >> 1 & 1];
		dry = card = (struct mt_candidate){.layout = run.layout};
		must(open_engine(&b, &run, "cpu", NULL));
		mt_device_set_observer(b.device, &observer);
		must(mt_engine_step(b.engine, &stats));
		close_engine(&b);
		must(mt_predict_dry(&dry, &run.model, &made.cost, NULL));
		must(mt_card_cache_create(&cache));
		must(mt_predict_card(&card, &run.model, &made.cost, cache));
		mt_card_cache_destroy(cache);
		int64_t want =
			(int64_t)((needed.bytes + MT_ARENA_COMMIT_BYTES - 1) / MT_ARENA_COMMIT_BYTES * MT_ARENA_COMMIT_BYTES);
		if (dry.stage[0].scratch_bytes != want || card.stage[0].scratch_bytes != want || want == 0)
			fail_msg("%d: scratch %lld dry, %lld by cards, %lld live", i, (long long)dry.stage[0].scratch_bytes,
				 (long long)card.stage[0].scratch_bytes, (long long)want);
		assert_int_equal(dry.stage[0].pinned_bytes, MT_GPU_PINNED_BYTES);
		assert_int_equal(card.stage[0].pinned_bytes, MT_GPU_PINNED_BYTES);
		free_candidate(&dry);
		free_candidate(&card);
		mt_run_free(&run);
	}
	make_up_end(&made);
}

static void scratch_is_of_the_largest_operation(void **state)
{
	struct mt_op op = {.kind = MT_OP_NORM_BWD, .dtype = MT_BF16};

	op.norm = (struct mt_norm){.kind = MT_NORM_LAYER, .rows = 4096, .cols = 1024};
	assert_int_equal(mt_gpu_scratch_bytes(&op, 90), 512 * 1024 * 2 * 4);
	op = (struct mt_op){.kind = MT_OP_LINEAR_WGRAD, .dtype = MT_BF16};
	op.linear = (struct mt_linear){.rows = 4096, .in = 512, .out = 1000};
	assert_int_equal(mt_gpu_scratch_bytes(&op, 80), 4 << 20);
	assert_int_equal(mt_gpu_scratch_bytes(&op, 100), 32 << 20);
	/* The vector of the bias' gradient behind the workspace; partial sums where the kernel does it, when those are more. */
	op.linear.dbias = &op;
	assert_int_equal(mt_gpu_scratch_bytes(&op, 100), (32 << 20) + 4000);
	op.linear.out = 100000;
	assert_int_equal(mt_gpu_scratch_bytes(&op, 80), 512 * 100000 * 4);
	op = (struct mt_op){.kind = MT_OP_EMBEDDING_BWD, .dtype = MT_F32};
	op.embedding = (struct mt_embedding){.rows = 2049, .cols = 64};
	/* Two lists of 8 bytes a row in 256s, 3 tiles of 256 counts, 65 runs of a row. */
	assert_int_equal(mt_gpu_scratch_bytes(&op, 90), 2 * 16640 + 3 * 1024 + 65 * 64 * 4);
}

/* Arenas of a GPU are no part of the process. */
static void memory_is_summed_where_it_is(void **state)
{
	struct mt_machine_host hosts[2] = {{.ranks = 4}, {.ranks = 1}};
	struct mt_machine_gpu gpus[3] = {
		{.memory_bytes = 80ll << 30}, {.memory_bytes = 64ll << 30}, {.host = 1, .memory_bytes = 40ll << 30}};
	struct mt_machine machine = {.process_bytes = 1000, .host_count = 2, .hosts = hosts, .gpu_count = 3, .gpus = gpus};
	struct mt_stage_prediction stage = {
		.arena_bytes = {1, 2, 3, 4 << 20, 0}, .scratch_bytes = 6 << 20, .pinned_bytes = 7 << 20};
	struct mt_arena_stats arenas[MT_ENGINE_ARENAS] = {{.peak_bytes = 3 << 20}, {.peak_bytes = 1}};

	mt_stage_sum(&stage, &machine);
	assert_int_equal(stage.peak_bytes, (4 << 20) + 6);
	assert_int_equal(stage.resident_bytes, 1000 + (10 << 20));
	assert_int_equal(stage.device_bytes, 0);
	assert_int_equal(mt_machine_device_bytes(&machine), 0);
	assert_int_equal(mt_machine_gpu_arch(&machine), 0);
	snprintf(machine.device, sizeof machine.device, "cuda");
	stage.host_bytes = 1;
	mt_stage_sum(&stage, &machine);
	assert_int_equal(stage.peak_bytes, (4 << 20) + 6);
	assert_int_equal(stage.resident_bytes, 1000 + (7 << 20) + (2 << 20));
	assert_int_equal(stage.device_bytes, (10 << 20) + (6 << 20));
	/* Two ranks a GPU on the first host. */
	assert_int_equal(mt_machine_device_bytes(&machine), (30ll << 30) - (512ll << 20));
	/* What a process holds beyond: without the arenas where they are in it, without pinned memory. */
	assert_int_equal(mt_process_beyond(100 << 20, arenas, 10 << 20), 90 << 20);
	arenas[0].resident = arenas[1].resident = true;
	assert_int_equal(mt_process_beyond(100 << 20, arenas, 0), 94 << 20);
}

static void arenas_tell_whether_they_are_of_the_process(void **state)
{
	const struct mt_arena_backing *backings[2] = {&mt_arena_host, &mt_arena_dry};

	for (int i = 0; i < 2; i++) {
		struct mt_arena_stats stats;
		struct mt_arena *arena = NULL;

		must(mt_arena_create(&arena, "which", backings[i], 1 << 20));
		mt_arena_stats(arena, &stats);
		mt_arena_destroy(arena);
		assert_int_equal(stats.resident, i == 0);
	}
}

/* The most bytes of activations of any stage. */
static int64_t most_activations(const struct mt_run *run, int schedule, struct made_up *made)
{
	struct mt_candidate dry = {.layout = run->layout};
	int64_t most = 0;

	dry.layout.schedule = schedule;
	must(mt_predict_dry(&dry, &run->model, &made->cost, NULL));
	for (int s = 0; s < dry.stages; s++)
		most = dry.stage[s].arena_bytes[3] > most ? dry.stage[s].arena_bytes[3] : most;
	free_candidate(&dry);
	return most;
}

/* Shapes of well-known models, a hidden size of 16 a head. From four stages on; with two or three the passing from what the
 * forward pass kept to what weight gradients need weighs more, and in one of these models exceeds the first stage. */
static void zero_bubble_h1_has_no_more_activations_than_1f1b(void **state)
{
	static const struct {
		const struct tiny_model *of;
		int heads, kv_heads, ffn; /* ffn: of 16 a head */
	} models[] = {{&TINY_GPT, 12, 12, 64},  {&TINY_GPT, 16, 4, 64},   {&TINY_LLAMA, 32, 32, 43},
		      {&TINY_LLAMA, 32, 8, 56}, {&TINY_LLAMA, 28, 4, 84}, {&TINY_LLAMA, 4, 2, 64}};
	/* stages, m, layers, tp with sequence parallelism */
	static const int shapes[][4] = {{8, 32, 8, 1}, {8, 32, 32, 1}, {4, 16, 4, 1},
					{4, 8, 16, 1}, {6, 12, 12, 1}, {8, 32, 16, 2}};
	struct made_up made;

	make_up(&made, 16, 1, 10, 1e12, 1e11, 1e-6);
	for (size_t i = 0; i < sizeof models / sizeof models[0]; i++) {
		for (size_t k = 0; k < sizeof shapes / sizeof shapes[0]; k++) {
			struct mt_run run;
			int64_t plain, zero_bubble;

			set_tiny_run(&run, models[i].of);
			run.model.heads = models[i].heads, run.model.kv_heads = models[i].kv_heads, run.model.head_dim = 16;
			run.model.hidden = 16 * models[i].heads, run.model.ffn = (int64_t)models[i].ffn * models[i].heads;
			run.model.layers = shapes[k][2];
			run.layout.pp = shapes[k][0], run.layout.mbs = 4, run.layout.gbs = 4 * shapes[k][1];
			run.layout.tp = shapes[k][3], run.layout.sp = run.layout.tp > 1;
			made.cost.train = &run.train;
			plain = most_activations(&run, MT_SCHEDULE_1F1B, &made);
			zero_bubble = most_activations(&run, MT_SCHEDULE_ZB_H1, &made);
			if (zero_bubble > plain)
				fail_msg("%d heads, %d stages, %d micro-batches, %d layers, tp %d: %lld bytes, 1F1B has %lld",
					 models[i].heads, shapes[k][0], shapes[k][1], shapes[k][2], shapes[k][3],
					 (long long)zero_bubble, (long long)plain);
			mt_run_free(&run);
		}
	}
	make_up_end(&made);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dry_run_peaks_are_live_peaks),
		cmocka_unit_test(peaks_do_not_grow_with_steps),
		cmocka_unit_test(the_dry_runs_scratch_is_what_the_operations_need),
		cmocka_unit_test(scratch_is_of_the_largest_operation),
		cmocka_unit_test(memory_is_summed_where_it_is),
		cmocka_unit_test(arenas_tell_whether_they_are_of_the_process),
		cmocka_unit_test(zero_bubble_h1_has_no_more_activations_than_1f1b),
	};
	return cmocka_run_group_tests_name("engine memory", tests, NULL, NULL);
}
