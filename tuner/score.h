/* score: how good predictions are: error, bias, coverage, rank correlation, and regret of picking by them. */
#ifndef MT_TUNER_SCORE_H
#define MT_TUNER_SCORE_H

#include "tuner/runs_table.h"

#include <jansson.h>
#include <stdio.h>

/* predicted_s and half_frac as of mt_fit_cross; rows that are skipped are not read. */
json_t *mt_score_json(const struct mt_runs_table *table, const double *predicted_s, const double *half_frac);
void mt_score_print(const struct mt_runs_table *table, const double *predicted_s, const double *half_frac, FILE *file);

/* Spearman's rank correlation, ties at their mean rank; NaN below two values or without spread. */
double mt_score_spearman(const double *x, const double *y, int count);

#endif
