/* bench_search [JOBS]: layouts a second of the search over the forecast, from cards; seconds of the processor, all threads. Each
 * space bounded, which is what `plan` does; the first two also with every layout that keeps the rules evaluated. Run by `make
 * bench-search`. */
#include "tuner/setting.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

struct row {
	const char *model, *machine, *stack;
	int gpus, gbs, seq;
};

static const struct row rows[] = {
	{"gpt3-175b", "dgx-a100-selene", "megatron-core", 4096, 1536, 2048},
	{"llama3.1-405b", "dgx-h100-eos", "megatron-core", 16384, 2048, 8192},
	{"gpt3-175b", "dgx-a100-selene", "megatron-core", 512, 1536, 2048},
	{"llama3.1-405b", "dgx-h100-eos", "megatron-core", 1024, 2048, 8192},
	{"llama3.1-405b", "dgx-h100-eos", "megatron-core", 32768, 2048, 8192},
	{"llama3.1-405b", "dgx-h100-eos", "megatron-core", 65536, 4096, 8192},
	{"llama3.1-405b", "dgx-h100-eos", "megatron-core", 98304, 6144, 8192},
	{"deepseek-v3", "h800-80g-sxm", "megatron-core", 2048, 15360, 4096},
};

enum { WHOLE = 2 };

static double peak_mib(void)
{
	struct rusage usage;

	return getrusage(RUSAGE_SELF, &usage) == 0 ? (double)usage.ru_maxrss / 1024 : 0;
}

static enum mt_status bench(const struct row *r, int jobs, bool bounded)
{
	struct mt_setting_options o;
	struct mt_setting setting = {0};
	struct mt_model model = {0};
	struct mt_survey_query q;
	struct mt_survey s = {0};
	char text[MT_SURVEY_TEXT] = "nothing fits";
	enum mt_status st;

	mt_options_default(&mt_setting_options_table, &o);
	o.jobs = jobs;
	o.bounded = bounded;
	free(o.stack);
	o.stack = strdup(r->stack);
	MT_GOTO(out, mt_setting_load(&setting, &o, r->machine));
	MT_GOTO(out, mt_model_load(&model, r->model));
	MT_GOTO(out, mt_setting_query(&q, &setting, &o, &model, r->gpus, r->gbs, r->seq));
	clock_t start = clock();
	MT_GOTO(out, mt_survey_run(&s, &q));
	double cpu_s = (double)(clock() - start) / CLOCKS_PER_SEC;
	if (s.best.count > 0)
		mt_survey_text(&s.best.points[0].layout, text);
	printf("%-14s %6d  %-9s %11lld %10lld %8.3f %8.3f %11.0f %12.0f %5.0f  %s\n", r->model, r->gpus,
	       bounded ? "bounded" : "all", (long long)s.counted, (long long)s.evaluated, s.seconds, cpu_s,
	       (double)s.evaluated / cpu_s, (double)s.counted / cpu_s, peak_mib(), text);
out:
	mt_survey_free(&s);
	mt_setting_free(&setting);
	mt_model_free(&model);
	mt_options_free(&mt_setting_options_table, &o);
	return st;
}

int main(int argc, char **argv)
{
	int jobs = argc > 1 ? atoi(argv[1]) : 1;

	printf("%-14s %6s  %-9s %11s %10s %8s %8s %11s %12s %5s  choice (%d thread%s)\n", "model", "GPUs", "search", "counted",
	       "evaluated", "wall s", "CPU s", "evaluated/s", "counted/s", "MiB", jobs, jobs == 1 ? "" : "s");
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		for (int bounded = i < WHOLE ? 0 : 1; bounded <= 1; bounded++) {
			enum mt_status st = bench(&rows[i], jobs > 0 ? jobs : 1, bounded);

			if (st != MT_OK) {
				fprintf(stderr, "bench_search: %s\n", mt_error_message());
				return mt_status_exit_code(st);
			}
		}
	}
	return 0;
}
