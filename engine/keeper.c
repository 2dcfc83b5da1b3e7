/* keeper: see keeper.h.
 *
 * A restart must find the run where it was: `resume: auto` takes the newest checkpoint of save_dir, so a run that begins
 * earlier than that (none, or a path) is refused, or a later restart would leap ahead of it. */
#include "engine/keeper.h"

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "base/stats.h"
#include "engine/internal.h"
#include "engine/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LEAST_LOSSES = 8, MOST_REWINDS = 3 };

/* The newest checkpoint of save_dir, as the first rank sees it; -1: none. */
static enum mt_status find_newest(const struct mt_keeper *k, int64_t *step)
{
	int64_t *steps = NULL;
	double value = -1;
	int count;

	*step = -1;
	if (!k->run->train.save_dir)
		return MT_OK;
	if (mt_group_rank(k->world) == 0) {
		mt_checkpoint_clean(k->run->train.save_dir);
		MT_TRY(mt_checkpoint_list(k->run->train.save_dir, &steps, &count));
		if (count > 0)
			value = (double)steps[count - 1];
		free(steps);
	}
	MT_TRY(mt_comm_host_all_reduce(k->world, &value, 1, MT_MAX));
	*step = (int64_t)value;
	return MT_OK;
}

/* The losses that the next one is held against, and how often the run went back. */
static void load_notes(struct mt_keeper *k, const json_t *manifest)
{
	json_t *losses = json_object_get(manifest, "losses"), *loss;
	size_t i;

	k->rewinds = mt_json_get_int(manifest, "rewinds", 0);
	k->loss_count = 0;
	json_array_foreach(losses, i, loss)
	{
		if (json_is_number(loss))
			k->losses[k->loss_count++ % MT_KEEPER_LOSSES] = json_number_value(loss);
	}
}

static json_t *make_notes(const struct mt_keeper *k)
{
	json_t *losses = json_array(), *notes = json_object();
	int64_t first = k->loss_count > MT_KEEPER_LOSSES ? k->loss_count - MT_KEEPER_LOSSES : 0;

	for (int64_t i = first; i < k->loss_count; i++)
		json_array_append_new(losses, mt_json_number(k->losses[i % MT_KEEPER_LOSSES]));
	json_object_set_new(notes, "losses", losses);
	json_object_set_new(notes, "rewinds", json_integer(k->rewinds));
	return notes;
}

static enum mt_status load(struct mt_keeper *k, const char *directory)
{
	struct mt_checkpoint c;

	MT_TRY(mt_checkpoint_open(&c, directory));
	load_notes(k, c.manifest);
	mt_checkpoint_close(&c);
	return mt_checkpoint_load(k->engine, directory);
}

/* The directory to resume from, or NULL: the run begins anew. */
static enum mt_status choose_origin(struct mt_keeper *k, int64_t newest)
{
	const struct mt_train_options *train = &k->run->train;

	if (strcmp(train->resume, "auto") == 0) {
		if (newest < 0)
			return MT_OK;
		k->origin = mt_checkpoint_path(train->save_dir, newest);
	} else if (strcmp(train->resume, "none") != 0) {
		k->origin = strdup(train->resume);
	} else {
		return MT_OK;
	}
	return k->origin ? MT_OK : mt_fail(MT_NOMEM, "out of memory");
}

enum mt_status mt_keeper_open(struct mt_keeper *keeper, const struct mt_run *run, struct mt_engine *engine, struct mt_group *world)
{
	struct mt_keeper *k = keeper;
	const struct mt_train_options *train = &run->train;
	struct mt_saver_config config = {
		.engine = engine, .world = world, .run = run, .directory = train->save_dir, .keep = train->save_keep};
	int64_t newest;

	*k = (struct mt_keeper){.run = run, .engine = engine, .world = world, .saved_step = -1};
	MT_TRY(find_newest(k, &newest));
	MT_TRY(choose_origin(k, newest));
	if (k->origin)
		MT_TRY(load(k, k->origin));
	else if (train->init_from)
		MT_TRY(mt_weights_load(engine, train->init_from));
	if (newest > engine->step)
		return mt_fail(MT_INPUT,
			       "save_dir %s has a checkpoint of step %lld, later than step %lld where this run would begin: a "
			       "restart would take it; give resume: auto, another save_dir, or move it away",
			       train->save_dir, (long long)newest, (long long)engine->step);
	k->saved_step = newest >= 0 && newest == engine->step ? newest : -1;
	if (train->save_dir)
		MT_TRY(mt_saver_create(&k->saver, &config));
	return mt_comm_barrier(world);
}

void mt_keeper_close(struct mt_keeper *keeper)
{
	mt_saver_destroy(keeper->saver);
	free(keeper->origin);
	memset(keeper, 0, sizeof *keeper);
}

void mt_keeper_prepare(struct mt_keeper *keeper)
{
	double factor = keeper->run->train.spike_factor, sorted[MT_KEEPER_LOSSES];
	int64_t count = keeper->loss_count < MT_KEEPER_LOSSES ? keeper->loss_count : MT_KEEPER_LOSSES;

	keeper->engine->loss_limit = 0;
	if (factor <= 0 || count < LEAST_LOSSES)
		return;
	memcpy(sorted, keeper->losses, sizeof sorted);
	keeper->engine->loss_limit = factor * mt_stats_median(sorted, (size_t)count);
}

void mt_keeper_vote(struct mt_keeper *keeper, double votes[MT_KEEPER_VOTES])
{
	int state = keeper->saver ? mt_saver_state(keeper->saver) : 0;

	votes[0] = state > 0;
	votes[1] = state < 0;
}

static enum mt_status save(struct mt_keeper *k)
{
	json_t *notes = make_notes(k);
	enum mt_status st = mt_saver_start(k->saver, notes);

	json_decref(notes);
	k->saved_step = k->engine->step;
	return st;
}

/* A save that failed on the way is told, and the run goes on: the next one is due soon, and the last one must succeed. */
static enum mt_status tolerate(struct mt_keeper *k, enum mt_status st)
{
	if (st != MT_IO)
		return st;
	if (mt_group_rank(k->world) == 0)
		mt_warn("%s", mt_error_message());
	mt_error_clear();
	k->saved_step = -1;
	return MT_OK;
}

/* Back to the newest checkpoint, and on with the data after the step that went wrong. */
static enum mt_status rewind_run(struct mt_keeper *k, const char *why)
{
	int64_t samples = k->engine->samples, newest, rewinds = k->rewinds + 1;
	char *path;
	enum mt_status st;

	if (k->saver)
		MT_TRY(tolerate(k, mt_saver_finish(k->saver)));
	MT_TRY(find_newest(k, &newest));
	if (newest < 0 || rewinds > MOST_REWINDS)
		return mt_fail(MT_FAILED, "%s: %s", why,
			       newest < 0 ? "there is no checkpoint to go back to"
					  : "the run went back three times already; lower lr, or look at the data");
	path = mt_checkpoint_path(k->run->train.save_dir, newest);
	st = path ? load(k, path) : mt_fail(MT_NOMEM, "out of memory");
	free(path);
	k->rewinds = rewinds;
	k->engine->samples = samples;
	if (st == MT_OK && mt_group_rank(k->world) == 0)
		mt_warn("%s: back to step %lld, and on with the data after it", why, (long long)newest);
	return st;
}

static enum mt_status answer_skip(struct mt_keeper *k, const struct mt_step_stats *stats, bool *rewound)
{
	const struct mt_train_options *train = &k->run->train;
	bool spike = stats->skipped == MT_SKIPPED_SPIKE;
	int policy = spike ? train->on_spike : train->on_nan;
	char why[160];

	snprintf(why, sizeof why, "step %lld: loss %g, gradient norm %g: %s", (long long)stats->step, stats->loss, stats->grad_norm,
		 spike ? "a spike" : "not finite");
	*rewound = false;
	if (policy == MT_POLICY_SKIP || stats->skipped == MT_SKIPPED_OVERFLOW)
		return MT_OK;
	if (policy == MT_POLICY_STOP)
		return mt_fail(MT_FAILED, "%s: stopped, as %s says; the parameters were left as they were before it", why,
			       spike ? "on_spike" : "on_nan");
	*rewound = true;
	return rewind_run(k, why);
}

enum mt_status mt_keeper_step(struct mt_keeper *keeper, const double votes[MT_KEEPER_VOTES], const struct mt_step_stats *stats,
			      bool *rewound)
{
	struct mt_keeper *k = keeper;
	int64_t every = k->run->train.save_every;

	*rewound = false;
	if (!stats->skipped)
		k->losses[k->loss_count++ % MT_KEEPER_LOSSES] = stats->loss;
	if (k->saver && votes[1] > 0)
		MT_TRY(tolerate(k, mt_saver_finish(k->saver)));
	else if (k->saver && votes[0] == 0 && mt_saver_active(k->saver))
		MT_TRY(mt_saver_publish(k->saver));
	if (stats->skipped)
		MT_TRY(answer_skip(k, stats, rewound));
	if (k->saver && !*rewound && every > 0 && k->engine->step % every == 0)
		return tolerate(k, save(k));
	return MT_OK;
}

enum mt_status mt_keeper_finish(struct mt_keeper *keeper, bool *saved)
{
	*saved = false;
	if (!keeper->saver)
		return MT_OK;
	if (keeper->saved_step != keeper->engine->step)
		MT_TRY(save(keeper));
	MT_TRY(mt_saver_finish(keeper->saver));
	*saved = true;
	return MT_OK;
}
