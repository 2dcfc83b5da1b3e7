/* resume_check: a run that was saved goes on with the same bits. */
#ifndef TESTS_RESUME_CHECK_H
#define TESTS_RESUME_CHECK_H

#include "engine/checkpoint.h"
#include "engine/internal.h"
#include "tests/engine_problem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <unistd.h>

#include <cmocka.h>

static inline void need(enum mt_status st)
{
	if (st != MT_OK)
		fail_msg("%s", mt_error_message());
}

static inline void resume_save(struct mt_saver *saver)
{
	json_t *notes = json_object();

	need(mt_saver_start(saver, notes));
	need(mt_saver_finish(saver));
	json_decref(notes);
}

/* One rank trains all steps into `want` and saves before step `saved`; another engine goes on from there. */
static inline void check_resume(const struct mt_run *run, int saved, int steps, struct mt_step_stats *want)
{
	char directory[] = "/tmp/megatune-resume-XXXXXX", command[80];
	struct engine_bench bench, again;
	struct mt_group *world = NULL;
	struct mt_saver *saver = NULL;
	struct mt_step_stats got;

	assert_non_null(mkdtemp(directory));
	need(open_engine(&bench, run, "cpu", NULL));
	need(mt_group_create_all(bench.own, "test", &world));
	need(mt_saver_create(
		&saver, &(struct mt_saver_config){.engine = bench.engine, .world = world, .run = run, .directory = directory}));
	for (int step = 0; step < steps; step++) {
		if (step == saved)
			resume_save(saver);
		need(mt_engine_step(bench.engine, &want[step]));
	}
	mt_saver_destroy(saver);
	mt_group_destroy(world);
	need(open_engine(&again, run, "cpu", NULL));
	char *path = mt_checkpoint_path(directory, saved);
	need(mt_checkpoint_load(again.engine, path));
	free(path);
	for (int step = saved; step < steps; step++) {
		need(mt_engine_step(again.engine, &got));
		if (got.loss != want[step].loss || got.grad_norm != want[step].grad_norm || got.step != step ||
		    got.loss_scale != want[step].loss_scale)
			fail_msg("step %d (%lld): loss %.9g norm %.9g scale %g, without the stop %.9g, %.9g and %g", step,
				 (long long)got.step, got.loss, got.grad_norm, got.loss_scale, want[step].loss,
				 want[step].grad_norm, want[step].loss_scale);
	}
	assert_int_equal(again.engine->skipped, bench.engine->skipped);
	close_engine(&bench);
	close_engine(&again);
	snprintf(command, sizeof command, "rm -rf %s", directory);
	assert_int_equal(system(command), 0);
}

#endif
