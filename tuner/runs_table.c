/* runs_table: rows to cases. What a row leaves out is filled in only where the software has one usual answer; else it is skipped,
 * and the reason told. Nothing depends on which run a row is: machine and stack come from the hardware and the software that it
 * names. */
#define _GNU_SOURCE
#include "tuner/runs_table.h"

#include "tuner/families.h"
#include "tuner/runs_table_cells.h"

#include <fnmatch.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* --- interconnect --- */

static double number_before(const char *text, const char *at)
{
	const char *from = at;

	while (from > text && strchr("0123456789.", from[-1]))
		from--;
	return from < at ? atof(from) : 0;
}

double mt_interconnect_gbps(const char *text, double gpus_per_node)
{
	double found = 0;

	for (const char *at = strcasestr(text, "b/s"); at; at = strcasestr(at + 1, "b/s")) {
		const char *unit = at - 1; /* "Gb/s" or "GB/s" */
		const char *end = unit > text && unit[-1] == ' ' ? unit - 1 : unit, *start = end;
		double rate, many = 1, gpus = gpus_per_node > 0 ? gpus_per_node : 8;

		if (unit < text || *unit != 'G')
			continue;
		while (start > text && strchr("0123456789.", start[-1]))
			start--;
		rate = number_before(text, end) / (at[0] == 'b' ? 8 : 1);
		/* "8x400", "4x ConnectX-7 IB NDR 400": a count before */
		const char *count = start > text && (start[-1] == 'x') ? start - 1 : NULL;
		for (const char *word = text; !count && word + 2 < start; word++)
			if (word[1] == 'x' && word[2] == ' ' && word[0] >= '1' && word[0] <= '9' &&
			    !memchr(word, ';', (size_t)(start - word)))
				count = word + 1;
		if (count)
			many = number_before(text, count);
		if (many > 0 && count && strstr(at, "per 4"))
			gpus = 4;
		if (rate <= 0 || strncasecmp(at + 3, " uni", 4) == 0)
			continue;
		if (strncasecmp(at + 3, " RDMA per GPU", 13) == 0 || strncasecmp(at + 3, " per GPU", 8) == 0)
			found = rate;
		else if (count)
			found = many * rate / gpus;
		else if (strncasecmp(at + 3, " per node", 9) == 0 || strstr(text, "per node"))
			found = rate / gpus;
		if (found > 0)
			return found;
	}
	return 0;
}

/* --- machine and stack --- */

static bool matches(const struct mt_yaml *rule, const char *key, const char *text)
{
	const struct mt_yaml *want = mt_yaml_get(rule, key);

	return !want || (want->kind == MT_YAML_SCALAR && fnmatch(want->text, text, FNM_CASEFOLD) == 0);
}

static const char *choose(const struct mt_yaml *map, const char *what, const struct mt_csv *csv, int row)
{
	static const char *const keys[][2] = {{"hardware", "hardware"},
					      {"interconnect", "interconnect"},
					      {"source", "source_repo"},
					      {"version", "container_or_version"},
					      {"attention", "attention"},
					      {"zero", "zero_stage"},
					      {"model", "model"},
					      {"arch", "arch"},
					      {"vp", "vp"},
					      {"notes", "notes"}};

	for (size_t i = 0; map && i < map->count; i++) {
		const struct mt_yaml *value = mt_yaml_get(map->items[i], what);
		bool all = value != NULL;

		for (size_t k = 0; all && k < sizeof keys / sizeof keys[0]; k++)
			all = matches(map->items[i], keys[k][0], mt_csv_cell(csv, row, mt_csv_column(csv, keys[k][1])));
		if (all)
			return value->text;
	}
	return NULL;
}

static enum mt_status check_map(const struct mt_yaml *map, const char *path)
{
	static const char *const known[] = {"hardware", "interconnect", "source", "version", "attention", "zero",
					    "model",    "arch",         "vp",     "notes",   "machine",   "stack"};

	if (!map || map->kind != MT_YAML_LIST)
		return mt_fail(MT_INPUT, "%s: no list 'map:' of rules such as {hardware: \"*a100*\", machine: a100-80g-sxm}", path);
	for (size_t i = 0; i < map->count; i++)
		MT_TRY(mt_yaml_check_keys(map->items[i], known, sizeof known / sizeof known[0]));
	return MT_OK;
}

static enum mt_status find_target(struct mt_runs_table *table, const char *name, double nic_gbps, int *index)
{
	struct mt_target *grown;
	char *full;

	grown = realloc(table->targets, (size_t)(table->target_count + 1) * sizeof *grown);
	if (!grown)
		return mt_fail(MT_NOMEM, "no memory for machines");
	table->targets = grown;
	struct mt_target *t = &grown[table->target_count];
	MT_TRY(mt_target_load(t, name));
	if (nic_gbps > 0)
		t->nic_gbps = nic_gbps;
	for (*index = 0; *index < table->target_count; ++*index) {
		if (strcmp(grown[*index].name, t->name) == 0 && grown[*index].nic_gbps == t->nic_gbps) {
			mt_target_free(t);
			return MT_OK;
		}
	}
	full = t->name ? NULL : strdup(name);
	if (full)
		t->name = full;
	table->target_count++;
	return MT_OK;
}

static enum mt_status find_stack(struct mt_runs_table *table, const char *name, int *index)
{
	struct mt_stack *grown;

	for (*index = 0; *index < table->stack_count; ++*index)
		if (strcmp(table->stacks[*index].name, name) == 0)
			return MT_OK;
	grown = realloc(table->stacks, (size_t)(table->stack_count + 1) * sizeof *grown);
	if (!grown)
		return mt_fail(MT_NOMEM, "no memory for stacks");
	table->stacks = grown;
	MT_TRY(mt_stack_load(&grown[table->stack_count], name));
	table->stack_count++;
	return MT_OK;
}

/* --- one row --- */

static void read_model(struct mt_case *c, const struct mt_csv *csv, int row)
{
	const char *arch = mt_csv_cell(csv, row, mt_csv_column(csv, "arch"));

	c->layers = mt_runs_number(csv, row, "layers", 0);
	c->hidden = mt_runs_number(csv, row, "hidden", 0);
	c->heads = mt_runs_number(csv, row, "heads", 0);
	c->kv_heads = mt_runs_number(csv, row, "kv_heads", c->heads);
	c->ffn = mt_runs_number(csv, row, "ffn", 0);
	c->vocab = mt_runs_number(csv, row, "vocab", 0);
	c->seq = mt_runs_number(csv, row, "seq", 0);
	c->experts = mt_runs_number(csv, row, "experts", 0);
	c->topk = mt_runs_number(csv, row, "topk", 0);
	mt_case_family(c, arch, mt_runs_word(csv, row, "attention", false));
}

static void read_layout(struct mt_case *c, const struct mt_csv *csv, int row, const struct mt_stack *stack)
{
	c->tp = mt_runs_number(csv, row, "tp", 0);
	c->pp = mt_runs_number(csv, row, "pp", 0);
	c->vp = mt_runs_number(csv, row, "vp", 1);
	c->cp = mt_runs_number(csv, row, "cp", 1);
	c->ep = mt_runs_number(csv, row, "ep", 1);
	c->dp = mt_runs_number(csv, row, "dp", 0);
	c->etp = c->experts > 0 ? mt_runs_number(csv, row, "etp", stack->experts_whole) : 0;
	c->mbs = mt_runs_number(csv, row, "mbs", 0);
	c->gbs = mt_runs_number(csv, row, "gbs", 0);
	c->sp = mt_runs_number(csv, row, "sp", stack->sp_default) > 0 && c->tp > 1;
	c->zero = (int)mt_runs_number(csv, row, "zero_stage", stack->fused_attention);
	c->recompute = mt_runs_word(csv, row, "recompute", (int)stack->recompute_default);
	c->selected = MT_CASE_ATTENTION;
	c->width = (enum mt_width)mt_runs_word(csv, row, "precision", MT_WIDTH_16);
	c->balanced_stages = stack->balanced_stages;
	c->fused_attention = mt_runs_word(csv, row, "attention", stack->fused_attention);
	if (c->vp < 1)
		c->vp = 1;
	if (c->ep < 1 || c->experts <= 0)
		c->ep = 1;
}

/* Widths and sizes that do not go together, in any software. */
static void find_misfit(struct mt_measured_run *run)
{
	const struct mt_case *c = &run->layout;

	if (fmod(c->gbs, c->dp * c->mbs) != 0)
		snprintf(run->skip, sizeof run->skip, "gbs %.0f is no multiple of dp %.0f * mbs %.0f", c->gbs, c->dp, c->mbs);
	else if (!(c->kv_heads > 0) || fmod(c->heads, c->kv_heads) != 0)
		snprintf(run->skip, sizeof run->skip, "kv_heads %.0f does not divide heads %.0f", c->kv_heads, c->heads);
	else if (c->experts > 0 && c->topk > c->experts)
		snprintf(run->skip, sizeof run->skip, "topk %.0f is more than experts %.0f", c->topk, c->experts);
	else if (c->experts > 0 && fmod(c->experts, c->ep) != 0)
		snprintf(run->skip, sizeof run->skip, "ep %.0f does not divide experts %.0f", c->ep, c->experts);
}

static void find_fault(struct mt_measured_run *run, const struct mt_csv *csv, int row, const struct mt_target *target)
{
	const struct mt_case *c = &run->layout;
	double world = c->tp * c->pp * c->cp * c->dp;

	if (mt_runs_cell_fault(csv, row, run->skip, sizeof run->skip))
		return;
	if (!(run->measured_s > 0))
		snprintf(run->skip, sizeof run->skip, "no step time");
	else if (!(c->layers > 0 && c->hidden > 0 && c->heads > 0 && c->ffn > 0 && c->vocab > 0 && c->seq > 0))
		snprintf(run->skip, sizeof run->skip, "the model is incomplete: needs layers, hidden, heads, ffn, vocab, seq");
	else if (!(c->tp > 0 && c->pp > 0 && c->dp > 0 && c->mbs > 0 && c->gbs > 0))
		snprintf(run->skip, sizeof run->skip, "the layout is incomplete: tp, pp, dp, mbs and gbs are needed");
	else if (world != run->gpus)
		snprintf(run->skip, sizeof run->skip, "tp*pp*cp*dp = %.0f is not the number of accelerators, %.0f", world,
			 run->gpus);
	else if (strstr(mt_csv_cell(csv, row, mt_csv_column(csv, "model")), "lora"))
		snprintf(run->skip, sizeof run->skip, "most weights are frozen (LoRA): not modelled");
	else if (c->experts > 0 && c->topk < 1)
		snprintf(run->skip, sizeof run->skip, "experts without topk");
	else if (mt_target_peak_tflops(target, c->width) <= 0)
		snprintf(run->skip, sizeof run->skip, "precision '%.40s': %.60s has no such products",
			 mt_csv_cell(csv, row, mt_csv_column(csv, "precision")), target->name);
	else
		find_misfit(run);
}

static enum mt_status read_row(struct mt_runs_table *table, int row, const struct mt_yaml *map, const char *machine,
			       const char *stack)
{
	const struct mt_csv *csv = &table->csv;
	struct mt_measured_run *run = &table->runs[row];
	const char *model = mt_csv_cell(csv, row, mt_csv_column(csv, "model"));
	double nic;

	run->id = mt_csv_cell(csv, row, mt_csv_column(csv, "id"));
	run->group = mt_csv_cell(csv, row, mt_csv_column(csv, "group"));
	run->gpus = mt_runs_number(csv, row, "gpus", 0);
	run->measured_s = mt_runs_number(csv, row, "step_time_s", 0);
	run->target = run->stack = -1;
	machine = machine ? machine : choose(map, "machine", csv, row);
	stack = stack ? stack : choose(map, "stack", csv, row);
	if (!machine || !stack) {
		snprintf(run->skip, sizeof run->skip, "no %s for '%.60s': add a rule to a --machine-map",
			 machine ? "stack" : "machine", mt_csv_cell(csv, row, mt_csv_column(csv, "hardware")));
		return MT_OK;
	}
	nic = mt_interconnect_gbps(mt_csv_cell(csv, row, mt_csv_column(csv, "interconnect")),
				   mt_runs_number(csv, row, "gpus_per_node", 0));
	MT_TRY(find_target(table, machine, nic, &run->target));
	MT_TRY(find_stack(table, stack, &run->stack));
	read_model(&run->layout, csv, row);
	read_layout(&run->layout, csv, row, &table->stacks[run->stack]);
	find_fault(run, csv, row, &table->targets[run->target]);
	const struct mt_case *c = &run->layout;
	snprintf(run->same, sizeof run->same, "%.60s %s %.0f gpus L%.0f h%.0f s%.0f b%.0f w%d", model,
		 table->targets[run->target].name, run->gpus, c->layers, c->hidden, c->seq, c->gbs, (int)c->width);
	snprintf(run->laid_out, sizeof run->laid_out,
		 "tp%.0f pp%.0f vp%.0f cp%.0f ep%.0f dp%.0f mbs%.0f sp%d zero%d recompute%d %s", c->tp, c->pp, c->vp, c->cp, c->ep,
		 c->dp, c->mbs, c->sp, c->zero, c->recompute, c->fused_attention ? "fused" : "plain");
	return MT_OK;
}

enum mt_status mt_runs_table_load(struct mt_runs_table *table, const char *path, const char *map, const char *machine,
				  const char *stack)
{
	char *map_path = mt_target_path("maps", map ? map : "default");
	struct mt_yaml *root = NULL;
	const struct mt_yaml *rules;
	enum mt_status st;

	memset(table, 0, sizeof *table);
	if (!map_path)
		return mt_fail(MT_NOMEM, "no memory for a path");
	MT_GOTO(out, mt_yaml_load(&root, map_path));
	rules = mt_yaml_get(root, "map");
	MT_GOTO(out, check_map(rules, map_path));
	MT_GOTO(out, mt_csv_load(&table->csv, path));
	static const char *const needed[] = {"gpus", "layers", "hidden", "heads", "tp", "pp", "dp", "mbs", "gbs", "step_time_s"};
	for (size_t i = 0; i < sizeof needed / sizeof needed[0] && st == MT_OK; i++)
		if (mt_csv_column(&table->csv, needed[i]) < 0)
			st = mt_fail(MT_INPUT, "%s: no column '%s'; docs/prediction.md lists the columns", path, needed[i]);
	if (st != MT_OK)
		goto out;
	table->count = table->csv.rows;
	table->runs = calloc((size_t)table->count + 1, sizeof *table->runs);
	if (!table->runs)
		st = mt_fail(MT_NOMEM, "no memory for %d runs", table->count);
	for (int i = 0; i < table->count && st == MT_OK; i++)
		st = read_row(table, i, rules, machine, stack);
out:
	mt_yaml_free(root);
	free(map_path);
	if (st != MT_OK)
		mt_runs_table_free(table);
	return st;
}

void mt_runs_table_free(struct mt_runs_table *table)
{
	for (int i = 0; i < table->target_count; i++)
		mt_target_free(&table->targets[i]);
	for (int i = 0; i < table->stack_count; i++)
		mt_stack_free(&table->stacks[i]);
	free(table->targets);
	free(table->stacks);
	free(table->runs);
	mt_csv_free(&table->csv);
	memset(table, 0, sizeof *table);
}
