/* survey_space: the nodes of a search; inside of the survey's files only. */
#ifndef MT_TUNER_SURVEY_SPACE_H
#define MT_TUNER_SURVEY_SPACE_H

#include "tuner/survey.h"

/* Cards of one (tp, cp, ep, etp, mbs, sp), shared by all pp. */
struct mt_survey_cards {
	struct mt_forecast_cards kinds[3]; /* by enum mt_case_recompute */
	double whole_bytes;                /* activations of one layer, nothing done again: the work of full recompute */
};

/* A node: what is left to choose is recompute, chunks and zero. */
struct mt_survey_node {
	struct mt_survey_layout layout;
	const struct mt_survey_cards *cards;
	double least_s, least_bytes; /* below those of all its layouts */
};

enum { MT_SURVEY_AXIS = 2048, MT_SURVEY_CHUNK_CHOICES = 256 };

struct mt_survey_axis {
	int values[MT_SURVEY_AXIS];
	int count;
};

struct mt_survey_space {
	struct mt_survey_node *nodes; /* owned */
	int count, capacity;
	struct mt_survey_cards **cards; /* owned, each too */
	int card_count, card_capacity;
};

/* Nodes that keep the rules of their axes, by least_s; the others are counted in survey->rejected, and all in survey->counted. */
enum mt_status mt_survey_enumerate(struct mt_survey_space *space, struct mt_survey *survey, const struct mt_survey_query *query);
void mt_survey_space_free(struct mt_survey_space *space);

/* What a node can still choose. */
struct mt_survey_choice {
	int a, b; /* recompute: kind and layers; chunks: schedule and vp; zero: stage */
};
struct mt_survey_inner {
	struct mt_survey_choice recompute[MT_SURVEY_AXIS], chunks[MT_SURVEY_CHUNK_CHOICES];
	int recompute_count, chunk_count;
};
/* Of a layout with pp and its end stages. */
void mt_survey_inner_axes(struct mt_survey_inner *inner, const struct mt_survey_query *query,
			  const struct mt_survey_layout *layout);

void mt_survey_cards_make(struct mt_survey_cards *cards, const struct mt_survey_query *query,
			  const struct mt_survey_layout *layout);
/* A layout in the model's case. */
void mt_survey_case(struct mt_case *c, const struct mt_survey_query *query, const struct mt_survey_layout *layout);
/* The cards of layers on average over those that recompute and those that do not. */
void mt_survey_mix(struct mt_forecast_cards *mix, const struct mt_survey_cards *cards, int recompute, double share);
/* `c` and `mix` of the layout, `share` of its layers recompute. */
void mt_survey_compose(struct mt_forecast *out, const struct mt_survey_query *query, struct mt_case *c,
		       const struct mt_survey_cards *cards, const struct mt_forecast_cards *mix, double share);
/* Below the step time of the layout whatever its vp, zero and schedule: the passes of the slowest stage. */
double mt_survey_passes_s(const struct mt_forecast *forecast);

/* The front and the best. */
enum mt_status mt_survey_best_add(struct mt_survey_front *best, const struct mt_survey_point *point, int top);
enum mt_status mt_survey_front_add(struct mt_survey_front *front, const struct mt_survey_point *point);
/* Some point of the front has less time than step_s and no more memory. */
bool mt_survey_front_beats(const struct mt_survey_front *front, double step_s, double peak_bytes);

#endif
