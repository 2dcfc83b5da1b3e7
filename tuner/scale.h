/* scale: a model on growing numbers of accelerators: the best layout of each size, one layout kept, and what failures leave of it;
 * and how much the choice depends on each number of the machine. */
#ifndef MT_TUNER_SCALE_H
#define MT_TUNER_SCALE_H

#include "tuner/setting.h"

/* What a job that fails now and then gets done. */
struct mt_goodput {
	double mtbf_s;       /* between interruptions of the whole job */
	double checkpoint_s; /* a checkpoint stops the job so long */
	double restart_s;    /* until it trains again */
	double interval_s;   /* out: between checkpoints, for the most work done */
	double frac;         /* out: share of the time that is work which stays */
};
/* Fills in the out fields: interruptions at random, as Daly 2006 counts them. */
void mt_goodput_best(struct mt_goodput *g);
double mt_goodput_frac(const struct mt_goodput *g, double interval_s);

struct mt_scale_options {
	char *gpus; /* "8..16384", "8,64,512" or one number */
	char *machine, *out;
	int64_t gbs, seq;
	bool strong, weak, sensitivity;
	double failure_hours; /* accelerator-hours an interruption */
	double storage_gbps, restart_s;
};
extern const struct mt_option_table mt_scale_options_table;

enum { MT_SCALE_SIZES = 64 };

/* One size. */
struct mt_scale_row {
	int64_t gpus, gbs;
	bool fits, fixed_fits;
	int64_t not_reached; /* layouts, when --seconds ended the search */
	const char *why;     /* why no layout was found; NULL: one was */
	struct mt_survey_layout best, fixed;
	struct mt_forecast best_f, fixed_f;
	const char *fixed_why; /* why the layout that is kept cannot run here */
	struct mt_goodput goodput;
	double days, cost,
		efficiency_frac; /* of the best; with failures; tokens/s an accelerator over those of the first that fits */
};

struct mt_scale {
	struct mt_scale_row *rows; /* owned */
	int count;
	json_t *sensitivity; /* owned; NULL: not asked for */
};

enum mt_status mt_scale_run(struct mt_scale *scale, const struct mt_setting *setting, const struct mt_setting_options *options,
			    const struct mt_scale_options *o, const struct mt_model *model);
void mt_scale_free(struct mt_scale *scale);
/* Sizes of the option's text; MT_INPUT for what is none. */
enum mt_status mt_scale_sizes(const char *text, int64_t sizes[MT_SCALE_SIZES], int *count);
json_t *mt_scale_json(const struct mt_scale *scale, const struct mt_setting *setting, const struct mt_setting_options *options,
		      const struct mt_scale_options *o, const struct mt_model *model);
void mt_scale_print(const struct mt_scale *scale, const struct mt_setting *setting, const struct mt_setting_options *options,
		    const struct mt_scale_options *o, const struct mt_model *model, FILE *file);

/* 10% of each number of the machine, for the worse: what it costs the layout, and whether another is better then. */
enum mt_status mt_sensitivity(json_t **list, const struct mt_survey_query *query, const struct mt_survey_layout *choice);

#endif
