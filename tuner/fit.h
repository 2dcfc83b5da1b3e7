/* fit: calibration. A run's factor is a product of what is known of its accelerator, its cluster (accelerator and network rate),
 * its software and the pair of both: so a machine never seen with some software still profits from what was seen of each. */
#ifndef MT_TUNER_FIT_H
#define MT_TUNER_FIT_H

#include "tuner/runs_table.h"

enum mt_fit_level { MT_FIT_ACCELERATOR, MT_FIT_CLUSTER, MT_FIT_STACK, MT_FIT_PAIR, MT_FIT_LEVELS };

struct mt_fit_key {
	int level; /* enum mt_fit_level */
	char name[96];
	double log_factor[MT_FACTORS];
	double log_sd[MT_FACTORS]; /* of the bootstrap; 0: not known */
	/* Of a pair, from cross-validation: */
	int runs;
	double half_frac; /* half of the 90% interval; 0: not known */
	double mape_frac;
};

struct mt_fit_model {
	struct mt_fit_key *keys; /* owned */
	int count;
	double half_frac; /* of pairs that were not seen, software that was */
};

void mt_fit_free(struct mt_fit_model *model);
/* Factors of a run; keys that are not there count as 1. */
void mt_fit_factors(const struct mt_fit_model *model, const struct mt_runs_table *table, const struct mt_measured_run *run,
		    struct mt_factors *factors);
/* Half of its 90% interval, relative. */
double mt_fit_half(const struct mt_fit_model *model, const struct mt_runs_table *table, const struct mt_measured_run *run);

/* Fits the runs with use[i] != 0 (NULL: all) that are not skipped. */
enum mt_status mt_fit_runs(struct mt_fit_model *model, const struct mt_runs_table *table, const unsigned char *use);
/* predicted_s and half_frac of every run that can be predicted, each from a fit to the other folds. by_run: folds of runs, else of
 * groups (a group with over half of its pair's runs is dealt out by run). */
enum mt_status mt_fit_cross(double *predicted_s, double *half_frac, const struct mt_runs_table *table, int folds, bool by_run);
/* Intervals and errors of the model's pairs from the predictions of a cross-validation. */
void mt_fit_intervals(struct mt_fit_model *model, const struct mt_runs_table *table, const double *predicted_s);
/* Spread of the factors over `draws` resamplings of the groups. */
enum mt_status mt_fit_bootstrap(struct mt_fit_model *model, const struct mt_runs_table *table, int draws, uint64_t seed);

enum mt_status mt_fit_save(const struct mt_fit_model *model, const char *path);
enum mt_status mt_fit_load(struct mt_fit_model *model, const char *path);

#endif
