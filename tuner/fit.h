/* fit: calibration. A run's factor is a product of what is known of its accelerator, its cluster (accelerator and network rate),
 * its software and the pair of both: so a machine never seen with some software still profits from what was seen of each.
 *
 * Where runs with layers of the same shape (widths, tokens, tensor, context and expert parallelism, precision, recompute) were
 * measured on the same accelerator with the same software, they are a profile of that layer: its time has a factor of its own,
 * shrunk towards 1 by how few and how uneven they are. Nothing else of a run carries over to another. */
#ifndef MT_TUNER_FIT_H
#define MT_TUNER_FIT_H

#include "tuner/runs_table.h"

enum mt_fit_level { MT_FIT_ACCELERATOR, MT_FIT_CLUSTER, MT_FIT_STACK, MT_FIT_PAIR, MT_FIT_LEVELS, MT_FIT_LAYER = MT_FIT_LEVELS };

enum { MT_FIT_NAME = 128 };

struct mt_fit_key {
	int level; /* enum mt_fit_level */
	char name[MT_FIT_NAME];
	double log_factor[MT_FACTORS];
	double log_sd[MT_FACTORS]; /* of the bootstrap; 0: not known */
	/* Of a pair, from cross-validation: */
	int runs;
	double half_frac, half_new_frac; /* half of the 90% interval: layers of a shape that was measured, or not; 0: not known */
	double mape_frac;
};

struct mt_fit_model {
	struct mt_fit_key *keys; /* owned */
	int count;
	double half_new_frac; /* of pairs that were not seen, software that was */
};

/* What cross-validation tells of each run: all by a fit to the other folds. */
struct mt_fit_check {
	double *predicted_s; /* owned; 0: not predicted */
	double *new_s;       /* owned; as if no layer of its shape had been measured */
	double *half_frac;   /* owned */
	unsigned char *seen; /* owned; a layer of its shape was */
};

void mt_fit_free(struct mt_fit_model *model);
/* Factors of a run; keys that are not there count as 1. */
void mt_fit_factors(const struct mt_fit_model *model, const struct mt_runs_table *table, const struct mt_measured_run *run,
		    struct mt_factors *factors);
/* Name of a run's key at a level; find: its index, -1: none. */
void mt_fit_key_name(char name[MT_FIT_NAME], const struct mt_runs_table *table, const struct mt_measured_run *run, int level);
int mt_fit_find(const struct mt_fit_model *model, int level, const char *name);
/* Of the time of a layer of that shape; 1: no run had one. */
double mt_fit_layer_factor(const struct mt_fit_model *model, const struct mt_target *target, const struct mt_stack *stack,
			   const struct mt_case *layout);
/* Factors of measured layers, given the others; adds their keys where room for one a run was left. */
void mt_fit_layers(struct mt_fit_model *model, const struct mt_runs_table *table, const double *draw);
/* Half of its 90% interval, relative. */
double mt_fit_half(const struct mt_fit_model *model, const struct mt_runs_table *table, const struct mt_measured_run *run);

/* Fits the runs with use[i] != 0 (NULL: all) that are not skipped. */
enum mt_status mt_fit_runs(struct mt_fit_model *model, const struct mt_runs_table *table, const unsigned char *use);
/* Every run that can be predicted, from a fit to the other folds. by_run: folds of runs, else of
 * groups (a group with over half of its pair's runs is dealt out by run). */
enum mt_status mt_fit_cross(struct mt_fit_check *check, const struct mt_runs_table *table, int folds, bool by_run);
void mt_fit_check_free(struct mt_fit_check *check);
/* Intervals and errors of the model's pairs from a cross-validation. */
enum mt_status mt_fit_intervals(struct mt_fit_model *model, const struct mt_runs_table *table, const struct mt_fit_check *check);
/* Spread of the factors over `draws` resamplings of the groups. */
enum mt_status mt_fit_bootstrap(struct mt_fit_model *model, const struct mt_runs_table *table, int draws, uint64_t seed);

enum mt_status mt_fit_save(const struct mt_fit_model *model, const char *path);
enum mt_status mt_fit_load(struct mt_fit_model *model, const char *path);

#endif
