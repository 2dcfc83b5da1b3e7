/* runs_table_cells: what the cells of a table of runs say, and which say nothing that a run can have. */
#ifndef MT_TUNER_RUNS_TABLE_CELLS_H
#define MT_TUNER_RUNS_TABLE_CELLS_H

#include "base/csv.h"

/* A number of 0 or more; `otherwise` where the cell is blank, no such number, or there is no column. */
double mt_runs_number(const struct mt_csv *csv, int row, const char *column, double otherwise);

/* What the word of a cell means: precision: enum mt_width; recompute: enum mt_case_recompute; attention: 1 where it is fused.
 * `otherwise` where the cell is blank, no such word, or there is no column. */
int mt_runs_word(const struct mt_csv *csv, int row, const char *column, int otherwise);

/* Whether a cell of the row holds what its column cannot: no number, part of a whole, a word that is not known. `why` then names
 * the column and what stands there, else it is left alone. */
bool mt_runs_cell_fault(const struct mt_csv *csv, int row, char *why, size_t size);

#endif
