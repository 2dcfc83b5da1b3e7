/* verify: runs the most promising layouts for a few steps each. A trial that fails is a result with its reason, never the end. */
#include "tuner/session.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/progress.h"
#include "tuner/launch.h"
#include "tuner/trial.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TRIAL_WARMUP = 2, LEAST_STEPS = 2 };

/* Timed steps: as many as are asked for, fewer where this layout's share of the budget has no room for them. */
static int64_t timed_steps(const struct mt_session *s, const struct mt_candidate *c)
{
	const struct mt_tune_options *o = &s->options;
	double room = o->top > 0 && c->step_s > 0 ? floor(o->trial_budget_s / (double)o->top / c->step_s) - TRIAL_WARMUP : 0;
	int64_t fit = room < LEAST_STEPS ? LEAST_STEPS : room < (double)o->trial_steps ? (int64_t)room : o->trial_steps;

	return fit < o->trial_steps ? fit : o->trial_steps;
}

static enum mt_status write_trial(const struct mt_session *s, const struct mt_candidate *c, const char *path)
{
	struct mt_run run;
	enum mt_status st;

	mt_run_default(&run);
	mt_model_free(&run.model);
	run.model = s->model;
	run.layout = c->layout;
	run.train.steps = timed_steps(s, c) + TRIAL_WARMUP;
	run.train.seed = s->options.seed;
	run.train.peak_tflops =
		mt_machine_tflops(&s->machine, (enum mt_dtype)c->layout.dtype, (int)s->base.threads, s->costs[0].ranks_per_host);
	if (s->options.data && !(run.data.path = strdup(s->options.data))) {
		memset(&run.model, 0, sizeof run.model);
		mt_run_free(&run);
		return mt_fail(MT_NOMEM, "no memory for a trial's run file");
	}
	run.train.rank_order = c->rank_order ? strdup(c->rank_order) : NULL;
	st = c->rank_order && !run.train.rank_order ? mt_fail(MT_NOMEM, "no memory for a trial's run file")
						    : mt_run_save(&run, path, "a trial of megatune tune");
	memset(&run.model, 0, sizeof run.model); /* borrowed */
	mt_run_free(&run);
	return st;
}

static enum mt_status take_bytes(const json_t *list, int stages, int64_t **bytes)
{
	if (!*bytes)
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
	MT_GOTO(out, mt_trial_add(c, json_object_get(summary, "step_times_s"), json_object_get(summary, "step_paces_flops")));
	c->measured_loss = mt_json_get_number(summary, "last_loss", 0);
	if (c->measured_steps == 0)
		set_failure(c, "the trial timed no step");
	MT_GOTO(out, take_bytes(json_object_get(summary, "memory_bytes"), c->stages, &c->measured_peak_bytes));
	MT_GOTO(out, take_bytes(json_object_get(summary, "resident_bytes"), c->stages, &c->measured_resident_bytes));
	MT_GOTO(out, take_bytes(json_object_get(summary, "scratch_bytes"), c->stages, &c->measured_scratch_bytes));
out:
	json_decref(summary);
	return st;
}

static enum mt_status run_trial(const struct mt_session *s, struct mt_candidate *c, const char *path)
{
	char warmup[16];
	const char *args[] = {"train", path, "--json", "--pace", "--warmup", warmup, NULL};
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

struct trials {
	struct mt_session *session;
	char *directory; /* owned */
	struct mt_progress progress;
	int *order;      /* owned: candidates, in the order in which they are run */
	double *seconds; /* owned: what each one's last trial took, the start of its ranks included */
	double start_s;
	int count, most;
};

/* What all steps so far say of the machine's pace may change what they say of a layout. */
static void judge(struct trials *t)
{
	struct mt_space *space = &t->session->space;
	double pace_flops = mt_trial_pace(space->candidates, space->count);

	for (int i = 0; i < t->count; i++) {
		struct mt_candidate *c = &space->candidates[t->order[i]];

		if (c->measured_steps > 0)
			mt_trial_judge(c, pace_flops);
	}
}

/* MT_INTERRUPTED when the user stopped it. */
static enum mt_status run_one(struct trials *t, int trial, int round)
{
	struct mt_candidate *c = &t->session->space.candidates[t->order[trial]];
	char text[96], *path = mt_string("%s/%02d.yaml", t->directory, trial + 1);
	double start_s = mt_clock_s();
	enum mt_status st;

	mt_layout_text(&c->layout, text);
	if (round == 0)
		mt_info("trial %d of %d: %s", trial + 1, t->most, text);
	else
		mt_info("trial %d of %d once more, its steps were disturbed: %s", trial + 1, t->most, text);
	mt_progress_advance(&t->progress, 0, text);
	st = path ? run_trial(t->session, c, path) : mt_fail(MT_NOMEM, "no memory for a path");
	free(path);
	t->seconds[trial] = mt_clock_s() - start_s;
	judge(t);
	if (st == MT_OK)
		mt_progress_advance(&t->progress, 1, text);
	return st;
}

/* Each trial may change which layout is the next. */
static enum mt_status run_all(struct trials *t)
{
	struct mt_space *space = &t->session->space;

	mt_progress_start(&t->progress, "trial", t->most);
	while (t->count < t->most) {
		t->order[t->count++] = mt_trial_next(space->candidates, space->count);
		MT_TRY(run_one(t, t->count - 1, 0));
	}
	mt_progress_finish(&t->progress);
	return MT_OK;
}

/* Its steps were disturbed, and the budget has room for another trial of it. */
static bool due_again(const struct trials *t, int trial)
{
	double end_s = t->start_s + t->session->options.trial_budget_s;

	return mt_trial_unsettled(&t->session->space.candidates[t->order[trial]]) && mt_clock_s() + t->seconds[trial] <= end_s;
}

/* A disturbance of seconds hits all steps of a trial or none: a layout that met one has its next trial after all others. */
static enum mt_status run_again(struct trials *t, int round)
{
	int due = 0;

	for (int i = 0; i < t->count; i++)
		due += due_again(t, i);
	mt_progress_start(&t->progress, "trial", due);
	for (int i = 0; i < t->count; i++) {
		if (due_again(t, i))
			MT_TRY(run_one(t, i, round));
	}
	mt_progress_finish(&t->progress);
	return MT_OK;
}

enum mt_status mt_verify(struct mt_session *session)
{
	double start_s = mt_clock_s();
	struct trials t = {.session = session, .directory = mt_session_path(session, "trials"), .start_s = start_s};
	enum mt_status st;

	t.most = session->options.top < session->space.count ? (int)session->options.top : session->space.count;
	t.order = calloc((size_t)t.most + 1, sizeof *t.order);
	t.seconds = calloc((size_t)t.most + 1, sizeof *t.seconds);
	MT_GOTO(out, t.directory && t.order && t.seconds ? mt_file_make_directory(t.directory)
							 : mt_fail(MT_NOMEM, "no memory for a list of trials"));
	st = run_all(&t);
	for (int round = 1; round < session->options.trial_rounds && st == MT_OK; round++)
		st = run_again(&t, round);
	if (st == MT_INTERRUPTED) {
		session->partial = true;
		st = MT_OK;
	}
out:
	mt_progress_finish(&t.progress);
	free(t.directory);
	free(t.order);
	free(t.seconds);
	mt_space_sort(&session->space);
	mt_session_phase(session, "trials", start_s);
	return st;
}
