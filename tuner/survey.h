/* survey: the search over the forecast: every layout of a model on so many accelerators of a machine that is described.
 *
 *   survey_rules.c    what a layout must keep, one rule a row: the same table prunes and gives the why-not list
 *   survey_space.c    the axes; groups of nodes (tp, cp, ep, etp, mbs, sp, tp_overlap), each with a bound below all its layouts
 *   survey_nodes.c    from a group to its nodes (pp, end stages), and the bounds of both
 *   survey_queue.c    groups and nodes by their bounds
 *   survey_tally.c    which rules the layouts break of nodes that are not visited
 *   survey_inner.c    what a node can still choose: recompute, chunks, shards
 *   survey_layout.c   one layout: cards to a forecast
 *   survey.c          nodes in the order of their bounds, on several threads, until nothing left can be among the best
 *   survey_front.c    the best few, and the front of time against memory
 *   survey_json.c     the answer as a document and as text
 *
 * Exact: what is not evaluated is counted, under the rule or the bound that excludes it; counted = rejected + pruned + evaluated +
 * not reached. A bound prunes only what can neither be among the best nor on the front. */
#ifndef MT_TUNER_SURVEY_H
#define MT_TUNER_SURVEY_H

#include "engine/schedule.h"
#include "tuner/fit.h"
#include "tuner/placement.h"

#include <jansson.h>
#include <stdio.h>

/* The engine's schedules. */
enum mt_survey_schedule {
	MT_SURVEY_1F1B = MT_SCHEDULE_1F1B,
	MT_SURVEY_ZB_H1 = MT_SCHEDULE_ZB_H1,
	MT_SURVEY_ZB_V = MT_SCHEDULE_ZB_V,
	MT_SURVEY_SCHEDULES
};
extern const char *const mt_survey_schedule_names[];
/* The kinds of recompute that a software has, in order: none 0, then the selections, full last. */
int mt_survey_recompute_index(const struct mt_stack *stack, int recompute, int selected);
int mt_survey_recompute_kinds(const struct mt_stack *stack);
/* All outputs that its selective recompute can name. */
int mt_survey_most_selected(const struct mt_stack *stack);

struct mt_survey_layout {
	int tp, cp, ep, pp, vp, dp, mbs;
	int sp, zero, recompute;   /* recompute: enum mt_case_recompute */
	int recompute_layers;      /* of the stage that has most layers; others in proportion; none: 0 */
	int schedule;              /* enum mt_survey_schedule */
	int etp;                   /* tensor-parallel ranks of an expert; without experts tp */
	int first_less, last_less; /* layers that the end stages have less than the others */
	int cp_kind, cp_inner;     /* enum mt_context_kind; of hybrid the ranks that exchange heads, else 1 */
	int tp_overlap;            /* the stack's switch is on */
	int zero_group;            /* ranks that shard between them; 0: all with the same parameters */
	int selected;              /* selective: enum mt_case_selected, else 0 */
	int rank_order;            /* enum mt_rank_order */
};

struct mt_survey_query {
	struct mt_case model;           /* model, seq, gbs, width, attention; its layout is not read */
	const struct mt_target *target; /* borrowed, as the stack */
	const struct mt_stack *stack;
	struct mt_factors factors;
	const struct mt_fit_model *measured; /* borrowed: factors of layers that runs had, by their shape; NULL: none */
	int64_t gpus;
	double memory_bytes;           /* of an accelerator */
	struct mt_survey_layout fixed; /* axes that have one value; -1: all */
	int top;                       /* best layouts kept */
	int jobs;                      /* threads */
	double seconds;                /* stop then, with what was found; 0: no limit */
	bool bounded;                  /* false: evaluate all that keep the rules */
};

struct mt_survey_point {
	struct mt_survey_layout layout;
	double step_s, peak_bytes;
};

/* Points in order; see survey_front.c. */
struct mt_survey_front {
	struct mt_survey_point *points; /* owned */
	int count, capacity;
};

struct mt_survey {
	struct mt_survey_front best;  /* the `top` of least time */
	struct mt_survey_front front; /* no other has less of both time and memory; by time */
	double least_bytes;           /* that the smallest of the layouts that do not fit needs at least; infinity: none */
	int64_t counted, evaluated, too_large, pruned_time, pruned_memory, not_reached;
	int64_t *rejected;   /* owned: one a rule */
	double least_left_s; /* below the time of every layout not reached; infinity: all were; 0: not known */
	double seconds;
	int jobs;
};

/* Every axis free, top 20, one thread, bounded. */
void mt_survey_default(struct mt_survey_query *query);
/* MT_OK also when no layout is left: best.count is 0 then. */
enum mt_status mt_survey_run(struct mt_survey *survey, const struct mt_survey_query *query);
void mt_survey_free(struct mt_survey *survey);

/* One layout, from nothing. Rules are not looked at. */
void mt_survey_forecast(struct mt_forecast *out, const struct mt_survey_query *query, const struct mt_survey_layout *layout);
enum { MT_SURVEY_TEXT = 192 };
/* "attention+norms" */
enum { MT_SURVEY_SELECTED = 40 };
void mt_survey_selected_text(int selected, char buf[MT_SURVEY_SELECTED]);
extern const char *const mt_survey_context_names[]; /* by enum mt_context_kind */
/* "tp8 pp16 vp4 cp2 dp8 mbs1 sp zero1 full6" */
void mt_survey_text(const struct mt_survey_layout *layout, char buf[MT_SURVEY_TEXT]);
/* Below, at or above 0: an order of layouts; 0: the same. */
int mt_survey_order(const struct mt_survey_layout *a, const struct mt_survey_layout *b);
/* Of a layout: the stage with most layers. */
int mt_survey_stage_layers(const struct mt_survey_query *query, const struct mt_survey_layout *layout);

/* When a rule can be told: as soon as these axes are chosen. */
enum mt_survey_level {
	MT_SURVEY_TP,
	MT_SURVEY_CP,     /* and its kind */
	MT_SURVEY_EP,     /* and etp */
	MT_SURVEY_SP,     /* mbs, sp and tp_overlap */
	MT_SURVEY_PP,     /* and the end stages */
	MT_SURVEY_CHUNKS, /* vp and schedule */
	MT_SURVEY_ZERO,   /* and schedule, not vp */
	MT_SURVEY_GROUP,  /* zero_group; of zero whether it is 0 */
	MT_SURVEY_RECOMPUTE,
	MT_SURVEY_RANKS, /* rank_order; of the others none from vp on */
	MT_SURVEY_ALL    /* recompute and chunks together */
};
struct mt_survey_rule {
	const char *name, *text; /* text NULL: a rule of the engine (engine/layout_rules.h), whose text it is */
	enum mt_survey_level level;
	int engine;                                                                                 /* enum mt_rule */
	bool (*broken)(const struct mt_survey_query *query, const struct mt_survey_layout *layout); /* NULL: the engine's */
};
extern const struct mt_survey_rule mt_survey_rules[];
extern const int mt_survey_rule_count;
const char *mt_survey_rule_text(int rule);
/* Index of the first rule of that level that is broken, or -1. */
int mt_survey_first_broken(const struct mt_survey_query *query, const struct mt_survey_layout *layout, enum mt_survey_level level);
/* The same of all levels, for a whole layout. */
int mt_survey_why_not(const struct mt_survey_query *query, const struct mt_survey_layout *layout);
/* Of a search that left no layout: the rules broken by those that kept most others, that is, came to the last level; the last rule
 * of it first. What --fix excludes only where nothing else does: the rest have the values asked for. Returns how many, `most` at
 * most. */
int mt_survey_nearest(const struct mt_survey *survey, int *rules, int most);

/* The document (docs/prediction.md) and the text. `half`: half of the 90% interval, relative (of the logarithm). */
json_t *mt_survey_json(const struct mt_survey *survey, const struct mt_survey_query *query, double half);
json_t *mt_survey_point_json(const struct mt_survey_query *query, const struct mt_survey_layout *layout, double half);
void mt_survey_print(const struct mt_survey *survey, const struct mt_survey_query *query, double half, FILE *file);
/* Words to the end of the line, which stands at this column; on further lines below it where they pass column 80. */
void mt_survey_print_words(const char *text, int column, FILE *file);
double mt_survey_mfu(const struct mt_survey_query *query, const struct mt_forecast *forecast);
/* Why no layout was found: MT_INCONCLUSIVE when time ended first; else MT_INPUT with the memory of the smallest, or the rules that
 * the nearest layouts break. Records the failure. */
enum mt_status mt_survey_nothing(const struct mt_survey *survey, const struct mt_survey_query *query);

#endif
