/* runs_table: a table of measured training runs, each with the machine and stack it is predicted with. */
#ifndef MT_TUNER_RUNS_TABLE_H
#define MT_TUNER_RUNS_TABLE_H

#include "base/csv.h"
#include "tuner/forecast.h"

struct mt_measured_run {
	const char *id, *group; /* of the table */
	struct mt_case layout;
	double gpus, measured_s;
	int target, stack;  /* indices */
	char skip[160];     /* why it cannot be predicted; empty: it can */
	char same[200];     /* equal text: same model, devices, batch and precision, so layouts compete */
	char laid_out[160]; /* equal text: the same layout */
};

struct mt_runs_table {
	struct mt_csv csv;
	struct mt_measured_run *runs; /* owned */
	int count;
	/* Machines by name and network rate, as rows need them; all owned. */
	struct mt_target *targets;
	struct mt_stack *stacks;
	int target_count, stack_count;
};

/* `map`: a map file; NULL: profiles/maps/default.yaml. `machine`, `stack`: for all rows, or NULL. */
enum mt_status mt_runs_table_load(struct mt_runs_table *table, const char *path, const char *map, const char *machine,
				  const char *stack);
void mt_runs_table_free(struct mt_runs_table *table);

/* GB/s in one direction for one accelerator that a description of an interconnect says: "8x400 Gb/s", "1600 Gb/s per node", "400
 * Gb/s
 * ... per GPU"; 0: it does not say. */
double mt_interconnect_gbps(const char *text, double gpus_per_node);

#endif
