/* The dry run's peaks are the live engine's, byte for byte and arena by arena, for layouts of one rank. mpi_engine_layouts does
 * the same for layouts of several. */
#include "tests/engine_problem.h"
#include "tests/tuner_problem.h"

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

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(dry_run_peaks_are_live_peaks),
		cmocka_unit_test(peaks_do_not_grow_with_steps),
	};
	return cmocka_run_group_tests_name("engine memory", tests, NULL, NULL);
}
