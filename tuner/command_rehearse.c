/* rehearse: `mpirun -n N megatune rehearse RUN.yaml --machine M.yaml`: the job of a run file on the emulated device. */
#include "tuner/cli.h"
#include "tuner/commands.h"
#include "tuner/job.h"
#include "tuner/placement.h"
#include "tuner/rehearse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct rehearse_options {
	char *machine, *store;
	int64_t timed_steps;
	int links;
	double step_wall_s, kernel_stretch;
};

enum { LINKS_EMULATED, LINKS_REAL };
static const char *const link_choices[] = {"emulated", "real", NULL};

static const struct mt_option options[] = {
	{"machine", MT_OPTION_STRING, offsetof(struct rehearse_options, machine), NULL, 0, 0, NULL,
	 "machine file (machine.yaml) whose rates and links are emulated"},
	{"store", MT_OPTION_STRING, offsetof(struct rehearse_options, store), NULL, 0, 0, NULL,
	 "profile store whose kernel times are taken; none: from the machine's rates"},
	{"timed_steps", MT_OPTION_INT, offsetof(struct rehearse_options, timed_steps), "1", 1, 64, NULL,
	 "steps that are timed, after one that is not"},
	{"links", MT_OPTION_CHOICE, offsetof(struct rehearse_options, links), "emulated", 0, 0, link_choices,
	 "emulated: messages are letters that say what the machine file's links would take; real: messages have their sizes and "
	 "take what these links take, on the real clock"},
	{"step_wall_s", MT_OPTION_FLOAT, offsetof(struct rehearse_options, step_wall_s), "4", 0, 1e5, NULL,
	 "links emulated: seconds that a step shall take on the real clock, which sets the pace of the job's; 0: as fast as "
	 "messages go"},
	{"kernel_stretch", MT_OPTION_FLOAT, offsetof(struct rehearse_options, kernel_stretch), "1", 1e-6, 1e6, NULL,
	 "the emulated device takes this many times as long for each kernel as the machine file or the store says"},
};
static const struct mt_option_table table = {"command", options, sizeof options / sizeof options[0]};

struct rehearsal_setup {
	struct mt_run run;
	struct mt_machine machine, placed; /* placed: as the ranks see it in the run's rank_order */
	struct mt_cost_model cost;
	struct mt_candidate dry;
};

static enum mt_status add_rows(struct rehearsal_setup *s, const char *path, double stretch)
{
	struct mt_store *store = NULL;
	struct mt_store_row *all = NULL;
	int count = 0, others = 0, kept = 0;
	enum mt_status st;

	MT_GOTO(out, mt_store_open(&store, path));
	MT_GOTO(out, mt_store_get(store, s->machine.fingerprint, &all, &count, &others));
	for (int i = 0; i < count; i++) {
		if (all[i].threads != s->cost.threads || all[i].busy_ranks != s->cost.ranks_per_host)
			continue;
		all[kept] = all[i];
		all[kept++].median_s *= stretch;
	}
	if (kept == 0)
		st = mt_fail(MT_INPUT, "%s: no kernel times of this machine file with %d threads a rank and %d ranks a host", path,
			     s->cost.threads, s->cost.ranks_per_host);
	else
		st = mt_profile_add_rows(s->cost.profile, all, kept);
out:
	free(all);
	mt_store_close(store);
	return st;
}

/* Rates of a device that is slower by `stretch`. */
static void slow_down(struct mt_profile_rates *rates, double stretch)
{
	for (int dtype = 0; dtype < MT_DTYPE_COUNT; dtype++)
		rates->flops_per_s[dtype] /= stretch;
	rates->bytes_per_s /= stretch;
	rates->overhead_s *= stretch;
}

static enum mt_status load_costs(struct rehearsal_setup *s, const struct rehearse_options *o)
{
	int world = (int)mt_layout_world(&s->run.layout), per_host;
	struct mt_profile_rates rates;

	if (!o->machine)
		return mt_fail(MT_INPUT, "command line: rehearse needs --machine FILE: whose rates and links to emulate");
	MT_TRY(mt_machine_load(&s->machine, o->machine));
	if (s->machine.world > 0 && world > s->machine.world)
		return mt_fail(MT_INPUT, "%s: the layout needs %d ranks, the machine has %d", o->machine, world, s->machine.world);
	per_host = s->machine.host_count > 0 ? (s->machine.world + s->machine.host_count - 1) / s->machine.host_count : world;
	s->cost = (struct mt_cost_model){.machine = &s->machine,
					 .ranks_per_host = world < per_host ? world : per_host,
					 .threads = s->run.layout.threads > 0 ? (int)s->run.layout.threads : 1,
					 .train = &s->run.train};
	rates = mt_cost_fallback(&s->machine, s->cost.threads, s->cost.ranks_per_host);
	slow_down(&rates, o->kernel_stretch);
	MT_TRY(mt_profile_create(&s->cost.profile, s->cost.threads, s->cost.ranks_per_host, &rates));
	return o->store ? add_rows(s, o->store, o->kernel_stretch) : MT_OK;
}

/* The links as the run's rank_order has them. */
static enum mt_status place(struct rehearsal_setup *s, const char *path)
{
	int world = (int)mt_layout_world(&s->run.layout), *device;
	enum mt_status st;

	if (s->machine.world != world)
		return mt_fail(MT_INPUT, "%s: rank_order places ranks on a machine of as many: it has %d, the layout %d", path,
			       s->machine.world, world);
	device = malloc((size_t)world * sizeof *device);
	st = device ? mt_placement_read(s->run.train.rank_order, &s->run.layout, device)
		    : mt_fail(MT_NOMEM, "no memory for the order of %d ranks", world);
	if (st == MT_OK)
		st = mt_machine_place(&s->placed, &s->machine, device);
	free(device);
	if (st == MT_OK)
		s->cost.machine = &s->placed;
	return st;
}

/* What can be found wrong without the other ranks, and the prediction. */
static enum mt_status prepare(struct rehearsal_setup *s, const struct mt_cli *cli, const struct rehearse_options *o, int ranks)
{
	MT_TRY(mt_run_load(&s->run, cli->words[0]));
	MT_TRY(mt_cli_apply(cli));
	MT_TRY(mt_run_check(&s->run, cli->words[0]));
	if (mt_layout_world(&s->run.layout) != ranks)
		return mt_fail(MT_INPUT, "%s: the layout needs %lld ranks, the job has %d: start it with `mpirun -n %lld`",
			       cli->words[0], (long long)mt_layout_world(&s->run.layout), ranks,
			       (long long)mt_layout_world(&s->run.layout));
	if (o->links == LINKS_REAL && s->run.layout.offload_layers > 0)
		return mt_fail(MT_INPUT,
			       "%s: offload_layers is not rehearsed with real links: a host that sleeps copies nothing meanwhile",
			       cli->words[0]);
	MT_TRY(load_costs(s, o));
	if (s->run.train.rank_order)
		MT_TRY(place(s, o->machine));
	s->dry.layout = s->run.layout;
	return mt_predict_dry(&s->dry, &s->run.model, &s->cost, NULL);
}

static json_t *rank_json(const struct mt_rehearsed_rank *k)
{
	int64_t bytes = 0;

	for (int i = 0; i < MT_ENGINE_ARENAS; i++)
		bytes += k->arena_bytes[i];
	return json_pack("{s:i, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I}", "stage", k->stage, "step_time_s", k->step_s,
			 "compute_s", k->compute_s, "tp_s", k->tp_s, "dp_s", k->dp_s, "pp_s", k->pp_s, "ep_s", k->ep_s,
			 "optimizer_s", k->optimizer_s, "wall_s", k->wall_s, "late_s", k->late_s, "peak_bytes", (json_int_t)bytes);
}

/* Of the stage that sets the pace, as in a plan. */
static json_t *split_json(const struct mt_candidate *dry)
{
	return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "compute_s", dry->compute_s, "tp_s", dry->tp_s, "dp_s", dry->dp_s,
			 "pp_s", dry->pp_s, "bubble_s", dry->bubble_s, "optimizer_s", dry->optimizer_s);
}

/* The rehearsed time of a step: on the real clock where it has a pace. */
static double rehearsed_s(const struct mt_rehearsal *r, double pace)
{
	return pace > 0 ? r->wall_s / pace : r->step_s;
}

static json_t *document(const struct rehearsal_setup *s, const struct mt_rehearsal *r, double pace, const char *differs)
{
	char text[96];
	json_t *ranks = json_array(), *doc;

	mt_layout_text(&s->run.layout, text);
	for (int i = 0; i < r->ranks; i++)
		json_array_append_new(ranks, rank_json(&r->rank[i]));
	doc = json_pack("{s:s, s:s, s:i, s:f, s:o, s:f, s:f, s:f, s:f, s:f, s:b, s:s*, s:f, s:f, s:o}", "model", s->run.model.name,
			"layout", text, "ranks", r->ranks, "dry_step_s", s->dry.step_s, "dry_split", split_json(&s->dry),
			"rehearsed_step_s", rehearsed_s(r, pace), "error_frac", s->dry.step_s / rehearsed_s(r, pace) - 1,
			"clock_step_s", r->step_s, "wall_s", r->wall_s, "pace", pace, "memory_equal", !differs[0], "memory_differs",
			differs[0] ? differs : NULL, "bubble_frac", r->bubble_frac, "late_s", r->late_s, "by_rank", ranks);
	return doc;
}

static void print(const struct rehearsal_setup *s, const struct mt_rehearsal *r, double pace, const char *differs)
{
	char text[96];

	mt_layout_text(&s->run.layout, text);
	printf("%s on %d ranks: %s\n", s->run.model.name, r->ranks, text);
	printf("Dry run    %.6g s a step\n", s->dry.step_s);
	printf("Rehearsed  %.6g s a step; the dry run is %+.2f%% off\n", rehearsed_s(r, pace),
	       (s->dry.step_s / rehearsed_s(r, pace) - 1) * 100);
	if (pace > 0)
		printf("Pace       %.4g s of the real clock for 1 s of the job's: %.3f s a step; by the job's clock %.6g s; a host "
		       "was "
		       "behind by at most %.1f ms\n",
		       pace, r->wall_s, r->step_s, r->late_s * 1e3);
	printf("Waiting    %.2f%% of the ranks' time, for other stages\n", r->bubble_frac * 100);
	printf("Memory     %s%s\n", differs[0] ? "differs: " : "of every rank and arena as in the dry run", differs);
}

/* Where links are real, `fabric` has the ranks in their order. */
static enum mt_status rehearse(struct rehearsal_setup *s, const struct mt_cli *cli, const struct rehearse_options *o,
			       struct mt_fabric *fabric)
{
	struct mt_rehearse_config config = {.run = &s->run,
					    .fabric = fabric,
					    .cost = &s->cost,
					    .steps = (int)o->timed_steps,
					    .real_links = o->links == LINKS_REAL,
					    .pace = o->links == LINKS_REAL ? 1 : o->step_wall_s / s->dry.step_s};
	struct mt_rehearsal r;
	char differs[200];
	enum mt_status st = mt_rehearse(&r, &config);
	bool equal;

	if (st != MT_OK) {
		mt_job_give_up(fabric, st);
		return st;
	}
	equal = mt_rehearsal_memory_agrees(&r, &s->dry, differs);
	if (mt_fabric_rank(fabric) == 0 && cli->common.json)
		st = mt_cli_print_json(document(s, &r, config.pace, differs));
	else if (mt_fabric_rank(fabric) == 0)
		print(s, &r, config.pace, differs);
	mt_rehearsal_free(&r);
	return st == MT_OK && !equal ? MT_VERDICT : st;
}

enum mt_status mt_command_rehearse(int argc, char **argv)
{
	struct rehearsal_setup s = {0};
	struct rehearse_options o = {0};
	struct mt_cli cli = {
		.usage = "mpirun -n N megatune rehearse RUN.yaml --machine FILE [options]",
		.summary =
			"Runs the job of a run file on an emulated device: every rank is a process and every message is sent, but "
			"kernels only take their time, at a pace that few cores keep, and use no processor. Tells how far the dry "
			"run's step time is off, and whether memory is what it says.",
		.tables = {&table, &mt_layout_options, &mt_train_options_table},
		.values = {&o, &s.run.layout, &s.run.train},
		.least_words = 1,
		.most_words = 1};
	struct mt_fabric *fabric = NULL, *ordered = NULL;
	enum mt_status st, parsed;

	mt_options_default(&table, &o);
	st = mt_cli_parse(&cli, argc, argv);
	if (cli.helped)
		goto out;
	parsed = st;
	MT_GOTO(out, mt_job_open(&fabric));
	MT_GOTO(out, mt_job_agree(fabric, parsed == MT_OK ? prepare(&s, &cli, &o, mt_fabric_size(fabric)) : parsed));
	if (o.links == LINKS_REAL)
		MT_GOTO(out, mt_job_order(&ordered, &s.run, fabric));
	st = rehearse(&s, &cli, &o, ordered ? ordered : fabric);
out:
	mt_fabric_destroy(ordered);
	mt_fabric_destroy(fabric);
	free(s.dry.stage);
	mt_profile_destroy(s.cost.profile);
	mt_machine_unplace(&s.placed);
	mt_machine_free(&s.machine);
	mt_cli_free(&cli);
	mt_run_free(&s.run);
	mt_options_free(&table, &o);
	return st;
}
