/* verify: runs the best layouts for a few steps each. A trial that fails is a result with its reason, never the end. */
#include "tuner/session.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/progress.h"
#include "tuner/launch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRIAL_WARMUP = 2 };

static enum mt_status write_trial(const struct mt_session *s, const struct mt_candidate *c, const char *path)
{
	struct mt_run run;
	enum mt_status st;

	mt_run_default(&run);
	mt_model_free(&run.model);
	run.model = s->model;
	run.layout = c->layout;
	run.train.steps = s->options.trial_steps + TRIAL_WARMUP;
	run.train.seed = s->options.seed;
	run.train.peak_tflops =
		mt_machine_tflops(&s->machine, (enum mt_dtype)c->layout.dtype, (int)s->base.threads, s->costs[0].ranks_per_host);
	if (s->options.data && !(run.data.path = strdup(s->options.data))) {
		memset(&run.model, 0, sizeof run.model);
		mt_run_free(&run);
		return mt_fail(MT_NOMEM, "no memory for a trial's run file");
	}
	st = mt_run_save(&run, path, "a trial of megatune tune");
	memset(&run.model, 0, sizeof run.model); /* borrowed */
	mt_run_free(&run);
	return st;
}

static enum mt_status take_bytes(const json_t *list, int stages, int64_t **bytes)
{
	*bytes = calloc((size_t)stages, sizeof **bytes);
	if (!*bytes)
		return mt_fail(MT_NOMEM, "no memory for %d stages", stages);
	for (int s = 0; s < stages; s++)
		(*bytes)[s] = (int64_t)json_integer_value(json_array_get(list, (size_t)s));
	return MT_OK;
}

static void set_failure(struct mt_candidate *c, const char *why)
{
	c->failed = true;
	snprintf(c->failure, sizeof c->failure, "%s", why);
}

static enum mt_status take_summary(struct mt_candidate *c, const char *output)
{
	json_t *summary = json_loads(output, 0, NULL);
	enum mt_status st = MT_OK;

	if (!summary) {
		set_failure(c, "the trial printed no summary");
		return MT_OK;
	}
	c->measured_s = mt_json_get_number(summary, "step_time_s", 0);
	c->measured.lo = mt_json_get_number(summary, "step_time_lo_s", c->measured_s);
	c->measured.hi = mt_json_get_number(summary, "step_time_hi_s", c->measured_s);
	c->measured_steps = mt_json_get_int(summary, "timed_steps", 0);
	c->measured_loss = mt_json_get_number(summary, "last_loss", 0);
	if (!(c->measured_s > 0))
		set_failure(c, "the trial timed no step");
	MT_GOTO(out, take_bytes(json_object_get(summary, "memory_bytes"), c->stages, &c->measured_peak_bytes));
	MT_GOTO(out, take_bytes(json_object_get(summary, "resident_bytes"), c->stages, &c->measured_resident_bytes));
out:
	json_decref(summary);
	return st;
}

static enum mt_status run_trial(const struct mt_session *s, struct mt_candidate *c, const char *path)
{
	char warmup[16];
	const char *args[] = {"train", path, "--json", "--warmup", warmup, NULL};
	struct mt_process_result result = {0};
	enum mt_status st;

	snprintf(warmup, sizeof warmup, "%d", TRIAL_WARMUP);
	MT_GOTO(out, write_trial(s, c, path));
	MT_GOTO(out, mt_launch(&result, &s->options, s->world, (int)c->layout.threads, args, s->options.trial_timeout_s));
	c->run = true;
	if (result.exit_code != 0 || result.timed_out) {
		c->failed = true;
		mt_launch_reason(&result, c->failure);
	} else {
		st = take_summary(c, result.output);
	}
out:
	mt_process_result_free(&result);
	return st;
}

enum mt_status mt_verify(struct mt_session *session)
{
	double start_s = mt_clock_s();
	struct mt_progress progress;
	int count = session->options.top < session->space.count ? (int)session->options.top : session->space.count;
	char *directory = mt_session_path(session, "trials");
	enum mt_status st;

	mt_progress_start(&progress, "trial", count);
	MT_GOTO(out, directory ? mt_file_make_directory(directory) : mt_fail(MT_NOMEM, "no memory for a path"));
	for (int i = 0; i < count; i++) {
		char text[96], *path = mt_string("%s/%02d.yaml", directory, i + 1);

		mt_layout_text(&session->space.candidates[i].layout, text);
		mt_info("trial %d of %d: %s", i + 1, count, text);
		mt_progress_advance(&progress, 0, text);
		st = path ? run_trial(session, &session->space.candidates[i], path) : mt_fail(MT_NOMEM, "no memory for a path");
		free(path);
		if (st == MT_INTERRUPTED) {
			session->partial = true;
			st = MT_OK;
			break;
		}
		if (st != MT_OK)
			goto out;
		mt_progress_advance(&progress, 1, text);
	}
out:
	mt_progress_finish(&progress);
	free(directory);
	mt_space_sort(&session->space);
	mt_session_phase(session, "trials", start_s);
	return st;
}
