/* goal: see goal.h. Sizes are 1, 2 and 3 times powers of two of whole nodes; sequences grow by doubling, then by halving the step
 * between one that fits and one that does not, in multiples of 1,024. */
#include "tuner/goal.h"

#include "base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void mt_goal_free(struct mt_goal *goal)
{
	free(goal->sizes);
	mt_survey_free(&goal->survey);
	memset(goal, 0, sizeof *goal);
}

double mt_goal_days(const struct mt_survey_query *query, double tokens, double step_s)
{
	return tokens / (query->model.gbs * query->model.seq) * step_s / 86400;
}

struct hunt {
	struct mt_goal *goal;
	const struct mt_setting *setting;
	const struct mt_setting_options *options;
	const struct mt_model *model;
	int64_t gbs, seq;
};

/* One search more; *size is the new row. */
static enum mt_status search(struct hunt *h, int64_t gpus, int64_t seq, struct mt_goal_size **size)
{
	struct mt_goal *g = h->goal;
	struct mt_goal_size *grown = realloc(g->sizes, (size_t)(g->count + 1) * sizeof *grown);

	if (!grown)
		return mt_fail(MT_NOMEM, "no memory for sizes");
	g->sizes = grown;
	*size = &grown[g->count++];
	**size = (struct mt_goal_size){.gpus = gpus, .seq = seq};
	mt_survey_free(&g->survey);
	MT_TRY(mt_setting_query(&g->query, h->setting, h->options, h->model, gpus, h->gbs, seq));
	MT_TRY(mt_survey_run(&g->survey, &g->query));
	(*size)->seq = (int64_t)g->query.model.seq;
	(*size)->fits = g->survey.best.count > 0;
	if ((*size)->fits) {
		(*size)->best = g->survey.best.points[0];
		(*size)->days = mt_goal_days(&g->query, h->options->tokens, (*size)->best.step_s);
		(*size)->cost = (*size)->days * 24 * (double)gpus * h->options->price;
	}
	return MT_OK;
}

static int64_t next_size(int64_t node, int64_t size)
{
	int64_t nodes = size / node;

	/* 1 2 3 4 6 8 12 16 ...: after a power of two half as much more, then the next power */
	if (nodes < 2)
		return node * (nodes + 1);
	return (nodes & (nodes - 1)) == 0 ? node * nodes / 2 * 3 : node * nodes / 3 * 4;
}

static enum mt_status over_sizes(struct hunt *h, int64_t most)
{
	int64_t node = h->setting->target.node_gpus, size = node < most ? node : most;
	const struct mt_setting_options *o = h->options;
	struct mt_goal_size *row;

	for (;;) {
		MT_TRY(search(h, size, h->seq, &row));
		bool good = row->fits && (o->deadline_days <= 0 || row->days <= o->deadline_days);

		if (good && (h->goal->choice < 0 || row->cost < h->goal->sizes[h->goal->choice].cost))
			h->goal->choice = h->goal->count - 1;
		if (size >= most || (good && o->objective == MT_OBJECTIVE_DEADLINE))
			return MT_OK;
		size = next_size(node, size);
		size = size < most ? size : most;
	}
}

static enum mt_status over_sequences(struct hunt *h, int64_t gpus)
{
	enum { UNIT = 1024 };
	int64_t fits = 0, fails = 0;
	struct mt_goal_size *row;

	for (int64_t seq = UNIT; fails == 0 && seq <= (int64_t)1 << 27; seq *= 2) {
		if (h->model->position == MT_MODEL_LEARNED && seq > h->model->seq)
			fails = seq; /* no rows for its positions */
		else
			MT_TRY(search(h, gpus, seq, &row));
		if (fails == 0 && row->fits) {
			fits = seq;
			h->goal->choice = h->goal->count - 1;
		} else {
			fails = seq;
		}
	}
	/* A tenth is near enough: what divides a longer one by fewer parts can differ more. */
	while (fits > 0 && fails > 0 && fails - fits > UNIT && fails - fits > fits / 10) {
		int64_t middle = (fits + fails) / 2 / UNIT * UNIT;

		if (h->model->position == MT_MODEL_LEARNED && middle > h->model->seq) {
			fails = middle;
			continue;
		}
		MT_TRY(search(h, gpus, middle, &row));
		fits = row->fits ? middle : fits;
		fails = row->fits ? fails : middle;
		if (row->fits)
			h->goal->choice = h->goal->count - 1;
	}
	return MT_OK;
}

enum mt_status mt_goal_search(struct mt_goal *goal, const struct mt_setting *setting, const struct mt_setting_options *o,
			      const struct mt_model *model, int64_t gpus, int64_t gbs, int64_t seq)
{
	struct hunt h = {goal, setting, o, model, gbs, seq};
	struct mt_goal_size *row;
	enum mt_status st;

	memset(goal, 0, sizeof *goal);
	goal->choice = -1;
	if (o->objective == MT_OBJECTIVE_DEADLINE && o->deadline_days <= 0)
		return mt_fail(MT_INPUT, "--objective gpus-for-deadline needs --deadline-days");
	if (o->objective == MT_OBJECTIVE_TIME)
		st = search(&h, gpus, seq, &row);
	else
		st = o->objective == MT_OBJECTIVE_SEQ ? over_sequences(&h, gpus) : over_sizes(&h, gpus);
	if (st == MT_OK && o->objective == MT_OBJECTIVE_TIME && row->fits)
		goal->choice = 0;
	if (st == MT_OK && goal->choice >= 0 && goal->choice < goal->count - 1) { /* its search once more, for its lists */
		int choice = goal->choice;

		st = search(&h, goal->sizes[choice].gpus, goal->sizes[choice].seq, &row);
		goal->count--;
	}
	if (st != MT_OK)
		mt_goal_free(goal);
	return st;
}

json_t *mt_goal_sizes_json(const struct mt_goal *goal)
{
	json_t *sizes = json_array();

	for (int i = 0; i < goal->count; i++) {
		const struct mt_goal_size *s = &goal->sizes[i];
		json_t *o = json_object();
		char text[MT_SURVEY_TEXT];

		json_object_set_new(o, "gpus", json_integer(s->gpus));
		json_object_set_new(o, "seq", json_integer(s->seq));
		json_object_set_new(o, "fits", json_boolean(s->fits));
		if (s->fits) {
			mt_survey_text(&s->best.layout, text);
			json_object_set_new(o, "text", json_string(text));
			json_object_set_new(o, "step_s", mt_json_number(s->best.step_s));
			json_object_set_new(o, "days", mt_json_number(s->days));
			json_object_set_new(o, "cost", mt_json_number(s->cost));
		}
		json_array_append_new(sizes, o);
	}
	return sizes;
}
