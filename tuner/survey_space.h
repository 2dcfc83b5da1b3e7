/* survey_space: the nodes of a search; inside of the survey's files only. */
#ifndef MT_TUNER_SURVEY_SPACE_H
#define MT_TUNER_SURVEY_SPACE_H

#include "tuner/survey.h"

enum {
	MT_SURVEY_AXIS = 2048,
	MT_SURVEY_CP_CHOICES = 16384,
	MT_SURVEY_CHUNK_CHOICES = 256,
	MT_SURVEY_MOST_LESS = 3, /* layers less on an end stage */
	MT_SURVEY_ENDS = (MT_SURVEY_MOST_LESS + 1) * (MT_SURVEY_MOST_LESS + 1),
	MT_SURVEY_CARD_KINDS = 1 + MT_CASE_SELECTIONS /* none, selections, full */
};

/* Cards of one (tp, cp, its kind, ep, etp, mbs, sp, tp_overlap), for all pp. */
struct mt_survey_cards {
	double whole_bytes; /* activations of one layer, nothing done again: the work of full recompute */
	struct mt_forecast_cards kinds[MT_SURVEY_CARD_KINDS]; /* by mt_survey_recompute_index */
};

/* A node: what is left to choose is recompute, chunks, zero and its group. A group of nodes: all with the same cards; its pp, dp
 * and end stages are not set. */
struct mt_survey_node {
	struct mt_survey_layout layout;
	bool group;
	const struct mt_forecast_parts *parts; /* what its cards are made of; shared by kinds of cp, tp_overlap and pp */
	double least_s, least_bytes;           /* below those of all its layouts; of a group's bytes nothing is known: 0 */
};

/* Nodes and groups, that with the lowest least_s first: a heap. */
struct mt_survey_queue {
	struct mt_survey_node *nodes; /* owned */
	int count, capacity;
};

struct mt_survey_axis {
	int values[MT_SURVEY_AXIS];
	int count;
};

struct mt_survey_choice {
	int a, b, c; /* recompute: kind, layers, selected; chunks: schedule, vp, number; shards: stage, group, rank_order; cp:
			its kind, inner; ends: first_less, last_less */
};

/* Of each pp the end stages beside it. */
struct mt_survey_stages {
	struct mt_survey_axis pp;
	struct mt_survey_choice ends[MT_SURVEY_AXIS][MT_SURVEY_ENDS];
	int end_count[MT_SURVEY_AXIS];
	int64_t inner[MT_SURVEY_AXIS][MT_SURVEY_ENDS], inner_all; /* layouts inside of each, and of all */
	int count;                                                /* of pp with ends */
};

struct mt_survey_space {
	struct mt_survey_queue queue; /* owned */
	struct mt_survey_stages stages;
	struct mt_forecast_parts **parts; /* owned, each too */
	int parts_count, parts_capacity;
	bool partial; /* the time was over before all groups were there */
};

/* Groups that keep the rules of their axes, queued; the others are counted in survey->rejected, and all in survey->counted.
 * `stop_s`: when to leave it at those there (base/clock.h); 0: never. */
enum mt_status mt_survey_enumerate(struct mt_survey_space *space, struct mt_survey *survey, const struct mt_survey_query *query,
				   double stop_s);
void mt_survey_space_free(struct mt_survey_space *space);
/* Divisors of a number, in order, up to `most`. */
void mt_survey_divisors(struct mt_survey_axis *axis, int64_t of, int64_t most);

/* --- survey_inner.c: what a node can still choose --- */

/* Axes of stages with so many layers. */
struct mt_survey_inner {
	struct mt_survey_choice chunks[MT_SURVEY_CHUNK_CHOICES];
	struct mt_survey_choice *recompute; /* owned: those that keep the rules that no chunks enter */
	int chunk_count, recompute_count, recompute_all;
	int *recompute_broken; /* owned: how many break each rule */
	/* owned: of each chunk choice how many of `recompute` go with it; how many break each rule with it */
	int *chunk_kept, *chunk_broken;
};
/* Layouts inside of a layout with pp and its end stages: every combination; `groups`: of zero. */
int64_t mt_survey_inner_layouts(const struct mt_survey_query *query, const struct mt_survey_layout *layout, int groups);
/* Of zero_group: 0, and the divisors of the number of accelerators beyond 1. */
void mt_survey_groups(struct mt_survey_axis *groups, const struct mt_survey_query *query);

/* What keeps the rules of a node's inner axes. */
struct mt_survey_allowed {
	const struct mt_survey_query *query;
	struct mt_survey_inner **inners; /* owned, each too: by layers, and whether pp is above 1 */
	int inner_count;
	struct mt_survey_axis groups;
	int **group_rules; /* owned, each too: of each number of ranks that could shard; see rules_of_groups */
	/* of the last node: its inner axes, chunks, and of each schedule stages of zero with their groups and
	 * orders of ranks; the rule that each of these breaks, -1: none */
	int order_rule[MT_RANK_ORDERS];
	const struct mt_survey_inner *inner;
	struct mt_survey_choice chunks[MT_SURVEY_CHUNK_CHOICES];
	struct mt_survey_choice shards[MT_SURVEY_SCHEDULES][4 * MT_SURVEY_AXIS * MT_RANK_ORDERS];
	int chunk_count, shard_count[MT_SURVEY_SCHEDULES];
};
enum mt_status mt_survey_allowed_create(struct mt_survey_allowed **allowed, const struct mt_survey_query *query);
void mt_survey_allowed_destroy(struct mt_survey_allowed *allowed);
/* `rejected`: layouts by rule, added to. */
enum mt_status mt_survey_allow(struct mt_survey_allowed *allowed, int64_t *rejected, const struct mt_survey_layout *node);
/* Of the last node: layouts that keep every rule; those that do not are added to `rejected`. */
int64_t mt_survey_allow_all(const struct mt_survey_allowed *allowed, int64_t *rejected);
/* The chunks that go with a recompute; returns how many layouts that leaves. */
int64_t mt_survey_allow_chunks(struct mt_survey_choice *chunks, int *count, const struct mt_survey_allowed *allowed,
			       int64_t *rejected, struct mt_survey_layout at);

/* --- survey_tally.c: layouts of nodes that are not visited, counted by rule at the end --- */

/* Nodes whose inner axes the same rules say the same of. */
struct mt_survey_alike {
	struct mt_survey_layout layout; /* one of them */
	bool folds;                     /* etp * ep is tp * cp */
	int64_t too_slow, too_large;    /* nodes; both 0: an empty slot */
	double least_bytes;             /* of those too large */
};
struct mt_survey_tally {
	struct mt_survey_alike *slots; /* owned */
	int count, room;               /* room: a power of two, or 0 */
};
/* A node that the memory bound excludes, or else the time bound. */
enum mt_status mt_survey_tally_add(struct mt_survey_tally *tally, const struct mt_survey_node *node, bool too_large);
/* What the nodes hold is added to rejected, pruned_time and pruned_memory, and least_bytes is brought down. The tally is freed. */
enum mt_status mt_survey_tally_close(struct mt_survey_tally *tally, struct mt_survey *survey, struct mt_survey_allowed *allowed);

/* --- survey_queue.c --- */

enum mt_status mt_survey_queue_push(struct mt_survey_queue *queue, const struct mt_survey_node *node);
/* False: it is empty. */
bool mt_survey_queue_pop(struct mt_survey_queue *queue, struct mt_survey_node *node);

/* --- survey_nodes.c: from a group to its nodes, and the bounds of both --- */

void mt_survey_stages_find(struct mt_survey_stages *stages, const struct mt_survey_query *query, int groups);
/* The group has a node that keeps the rules. */
bool mt_survey_group_holds(const struct mt_survey_query *query, const struct mt_survey_stages *stages,
			   const struct mt_survey_layout *group);
/* Below the time of all layouts of the group. */
double mt_survey_group_bound(const struct mt_survey_query *query, const struct mt_survey_layout *group,
			     const struct mt_survey_cards *cards);
/* The group's nodes that may be in the answer as `survey` has it; the others are counted there and in the tally. `cards` is room to
 * work; `nodes`: stages->count of them. */
enum mt_status mt_survey_expand(struct mt_survey_node *nodes, int *count, const struct mt_survey_query *query,
				const struct mt_survey_stages *stages, struct mt_survey *survey, struct mt_survey_tally *tally,
				struct mt_survey_cards *cards, const struct mt_survey_node *group);

/* --- survey_layout.c --- */

/* `parts` of the layout's tp, cp, ep, etp, mbs and sp. */
void mt_survey_cards_make(struct mt_survey_cards *cards, const struct mt_survey_query *query, const struct mt_survey_layout *layout,
			  const struct mt_forecast_parts *parts);
/* A layout in the model's case. */
void mt_survey_case(struct mt_case *c, const struct mt_survey_query *query, const struct mt_survey_layout *layout);
/* The cards of layers on average over those that recompute, `again`, and those that do not. */
void mt_survey_mix(struct mt_forecast_cards *mix, const struct mt_forecast_cards *none, const struct mt_forecast_cards *again,
		   double share);
/* `c` and `mix` of the layout, `share` of its layers recompute. */
void mt_survey_compose(struct mt_forecast *out, const struct mt_survey_query *query, struct mt_case *c, double whole_bytes,
		       const struct mt_forecast_cards *mix, double share);
/* Below the step time of the layout whatever its shards and schedule, and where expert_every is 1 its vp: the passes of the slowest
 * stage. */
double mt_survey_passes_s(const struct mt_forecast *forecast);

/* --- survey_front.c --- */

enum mt_status mt_survey_best_add(struct mt_survey_front *best, const struct mt_survey_point *point, int top);
enum mt_status mt_survey_front_add(struct mt_survey_front *front, const struct mt_survey_point *point);
/* Some point of the front has less time than step_s and no more memory. */
bool mt_survey_front_beats(const struct mt_survey_front *front, double step_s, double peak_bytes);

/* None of the layouts with at least this time and memory can be in the answer. */
bool mt_survey_hopeless(const struct mt_survey *survey, const struct mt_survey_query *query, double least_s, double least_bytes);

#endif
