/* Intervals of a pair that cross-validation knows few groups of: runs of one group err alike, so that they say little of another.
 */
#include "tuner/fit.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

enum { RUNS = 6 }; /* of a group */

/* `groups` groups on one machine and software, which miss what the model says by 1% either way, and six on others
 * that miss it by 30%. */
static struct mt_runs_table table_of(int groups, char path[32])
{
	static const char head[] = "id,group,source_repo,hardware,arch,gpus,layers,hidden,heads,ffn,vocab,seq,tp,pp,dp,mbs,gbs,"
				   "recompute,step_time_s\n";
	struct mt_runs_table table;
	int handle = mkstemp(path);
	FILE *f = handle >= 0 ? fdopen(handle, "w") : NULL;

	assert_non_null(f);
	fputs(head, f);
	for (int g = 0; g < groups + 6; g++)
		for (int i = 0; i < RUNS; i++) {
			int heads = 8 + g;

			fprintf(f, "r%d-%d,g%d,%s,gpt2,8,%d,%d,%d,%d,51200,1024,1,1,8,4,64,full,1\n", g, i, g,
				g < groups ? "vTrain,a100-80g" : "nanotron,h100-80g", 8 + 4 * i, 128 * heads, heads, 512 * heads);
		}
	assert_int_equal(fclose(f), 0);
	if (mt_runs_table_load(&table, path, NULL, NULL, NULL) != MT_OK)
		fail_msg("%s", mt_error_message());
	for (int i = 0; i < table.count; i++) {
		struct mt_measured_run *run = &table.runs[i];
		int group = i / RUNS;
		struct mt_forecast out;

		assert_string_equal(run->skip, "");
		mt_forecast_step(&out, &run->layout, &table.targets[run->target], &table.stacks[run->stack], &mt_factors_none);
		run->measured_s = out.step_s * pow(group < groups ? 1.01 : 1.3, group % 2 ? 1 : -1);
	}
	return table;
}

/* Widest half interval of the near pair's runs, and of that pair in the calibration. */
static double near_half(int groups, double *of_file)
{
	char path[32] = "/tmp/mt-intervals-XXXXXX", name[MT_FIT_NAME];
	struct mt_runs_table table = table_of(groups, path);
	struct mt_fit_check check;
	struct mt_fit_model model;
	double widest = 0;
	int k;

	assert_int_equal(mt_fit_runs(&model, &table, NULL), MT_OK);
	assert_int_equal(mt_fit_cross(&check, &table, 5, false), MT_OK);
	assert_int_equal(mt_fit_intervals(&model, &table, &check), MT_OK);
	for (int i = 0; i < groups * RUNS; i++)
		widest = fmax(widest, check.half_frac[i]);
	mt_fit_key_name(name, &table, &table.runs[0], MT_FIT_PAIR);
	k = mt_fit_find(&model, MT_FIT_PAIR, name);
	assert_true(k >= 0);
	*of_file = model.keys[k].half_new_frac;
	mt_fit_check_free(&check);
	mt_fit_free(&model);
	mt_runs_table_free(&table);
	remove(path);
	return widest;
}

/* Three groups with small errors do not promise that of a fourth: the errors of all pairs hold. Fifteen do. */
static void few_groups_leave_the_errors_of_all_pairs(void **state)
{
	double file_few, file_many, few = near_half(3, &file_few), many = near_half(15, &file_many);

	if (!(few > 0.1 && file_few > 0.1))
		fail_msg("of 3 groups: %.4f, in the file %.4f", few, file_few);
	if (!(many < 0.05 && file_many < 0.05))
		fail_msg("of 15 groups: %.4f, in the file %.4f", many, file_many);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(few_groups_leave_the_errors_of_all_pairs)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
