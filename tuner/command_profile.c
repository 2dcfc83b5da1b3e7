/* profile: times the kernels that a model's layouts need, on all ranks at once, and keeps them in the store. */
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/progress.h"
#include "tuner/commands.h"
#include "tuner/health.h"
#include "tuner/job.h"
#include "tuner/session.h"
#include "tuner/slice.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct profiler {
	struct mt_session session;
	struct mt_fabric *fabric;
	struct mt_device *device;
	struct mt_slice *slices; /* owned */
	int slice_count, run_count;
	int64_t process_bytes;
	double drift_frac; /* mt_slices_drift of the rank where it is most */
	struct mt_slice_timing timing;
	struct mt_nvml_watched *gpus; /* owned */
	int gpu_count;
	bool leader;
};

/* Without communication. */
static enum mt_status open_all(struct profiler *p, const struct mt_cli *cli)
{
	struct mt_device_config device;
	bool measured;
	int rows;

	MT_TRY(mt_cli_apply(cli));
	p->leader = mt_fabric_rank(p->fabric) == 0;
	p->session.options.gpus = mt_fabric_size(p->fabric);
	MT_TRY(mt_session_open(&p->session, cli->words[0]));
	MT_TRY(mt_session_load_machine(&p->session, &measured));
	if (!measured)
		return mt_fail(MT_INPUT, "profile needs a measured machine, for its fingerprint: run `megatune probe` and name its "
					 "file with --machine");
	MT_TRY(mt_session_load_profile(&p->session, &rows));
	MT_TRY(mt_space_enumerate(&p->session.space, &p->session.model, &p->session.base, p->session.world, NULL, 0,
				  &p->session.axes));
	MT_TRY(mt_slices_of(&p->session.space, &p->session.model, &p->slices, &p->slice_count));
	device = (struct mt_device_config){.kind = p->session.options.device, .threads = (int)p->session.base.threads};
	return mt_device_create(&p->device, &device);
}

/* Ranks agree on what is known: rank 0 decides. */
static enum mt_status is_known(struct profiler *p, struct mt_group *world, const struct mt_slice *slice, bool *known)
{
	double missing = 0;

	MT_TRY(mt_slice_known(slice, &p->session.machine, p->session.costs[0].profile, known));
	missing = p->leader && !*known;
	MT_TRY(mt_comm_host_all_reduce(world, &missing, 1, MT_MAX));
	*known = missing == 0;
	return MT_OK;
}

/* All that was measured so far, anew from the slices' steps. */
static enum mt_status settle(struct profiler *p)
{
	p->timing.steps = p->timing.undisturbed = 0;
	mt_profile_reset(p->session.costs[0].profile);
	for (int i = 0; i < p->slice_count; i++)
		MT_TRY(mt_slice_settle(&p->slices[i], &p->timing));
	return MT_OK;
}

/* In the first round a slice whose kernels are all known is left out, and so it is later. */
static enum mt_status run_round(struct profiler *p, struct mt_group *world, int round, struct mt_progress *progress)
{
	double share_s = p->session.options.profile_budget_s / MT_SLICE_ROUNDS / (p->slice_count ? p->slice_count : 1);

	for (int i = 0; i < p->slice_count; i++) {
		struct mt_slice *slice = &p->slices[i];
		bool known = round > 0 && !slice->steady;

		if (round == 0)
			MT_TRY(is_known(p, world, slice, &known));
		if (!known) {
			MT_TRY(mt_slice_run(slice, p->fabric, p->device, p->session.costs[0].profile, share_s, &p->process_bytes,
					    &p->timing));
			MT_TRY(settle(p));
			p->run_count += round == 0;
		}
		if (p->leader)
			mt_progress_advance(progress, 1, NULL);
	}
	return MT_OK;
}

static enum mt_status run_all(struct profiler *p, struct mt_group *world)
{
	struct mt_progress progress;
	enum mt_status st = MT_OK;

	if (p->leader)
		mt_progress_start(&progress, "profile", MT_SLICE_ROUNDS * p->slice_count);
	for (int round = 0; round < MT_SLICE_ROUNDS && st == MT_OK; round++)
		st = run_round(p, world, round, &progress);
	if (p->leader)
		mt_progress_finish(&progress);
	return st;
}

static enum mt_status run_watched(struct profiler *p, struct mt_group *world)
{
	struct mt_nvml_watch *watch = p->leader ? mt_health_start(p->device) : NULL;
	enum mt_status st = run_all(p, world), stopped = mt_nvml_watch_stop(watch, &p->gpus, &p->gpu_count);

	return st == MT_OK ? stopped : st;
}

/* null where nothing was run or it is not known. */
static json_t *timing_json(const struct mt_slice_timing *t)
{
	const struct mt_activity_totals *sum = &t->totals;

	if (!t->method[0])
		return json_null();
	return json_pack("{s:s, s:i, s:i, s:o, s:o}", "method", t->method, "steps", t->steps, "undisturbed_steps", t->undisturbed,
			 "overhead_frac", t->plain_s > 0 ? json_real(t->traced_s / t->plain_s - 1) : json_null(), "device",
			 t->device_records
				 ? json_pack("{s:I, s:f, s:f, s:f, s:I, s:f, s:I, s:I}", "pieces", (json_int_t)sum->pieces,
					     "busy_s", 1e-9 * (double)sum->busy_ns, "gap_s", 1e-9 * (double)sum->gap_ns, "idle_s",
					     1e-9 * (double)sum->idle_ns, "unattributed", (json_int_t)sum->unattributed,
					     "unattributed_s", 1e-9 * (double)sum->unattributed_ns, "without_time",
					     (json_int_t)sum->without_time, "dropped", (json_int_t)sum->dropped)
				 : json_null());
}

static void print_timing(const struct mt_slice_timing *t)
{
	const struct mt_activity_totals *sum = &t->totals;

	if (!t->method[0])
		return;
	printf("timed by %s", t->method);
	if (t->plain_s > 0)
		printf(", which made a step %+.1f%% longer", 100 * (t->traced_s / t->plain_s - 1));
	printf("\n%d of %d steps were undisturbed; the kernels of the others are left out\n", t->undisturbed, t->steps);
	if (t->device_records)
		printf("device: %.3f s in operations' kernels, %.3f s gaps inside of operations, %.3f s idle between them; %zu of "
		       "%zu "
		       "pieces of work belong to no operation, %llu records lost\n",
		       1e-9 * (double)sum->busy_ns, 1e-9 * (double)sum->gap_ns, 1e-9 * (double)sum->idle_ns, sum->unattributed,
		       sum->pieces, (unsigned long long)(sum->dropped + sum->without_time));
}

/* The machine file learns the size of a rank's process, and how much steps drift. */
static enum mt_status tell_machine(struct profiler *p)
{
	struct mt_machine *m = &p->session.machine;

	if (!p->session.options.machine || (p->process_bytes <= m->process_bytes && p->drift_frac <= 0))
		return MT_OK;
	m->process_bytes = p->process_bytes > m->process_bytes ? p->process_bytes : m->process_bytes;
	m->step_drift_frac = p->drift_frac > 0 ? p->drift_frac : m->step_drift_frac;
	return mt_machine_save(m, p->session.options.machine);
}

/* Rank 0's rows go to the store. */
static enum mt_status save(struct profiler *p, bool json)
{
	char *path = mt_session_store_path(&p->session);
	struct mt_store *store = NULL;
	struct mt_store_row *rows = NULL;
	int count = 0;
	enum mt_status st;

	MT_GOTO(out, path ? mt_store_open(&store, path) : mt_fail(MT_NOMEM, "no memory for a path"));
	MT_GOTO(out, mt_profile_rows(p->session.costs[0].profile, &rows, &count));
	MT_GOTO(out, mt_store_put(store, p->session.machine.fingerprint, rows, count));
	MT_GOTO(out, tell_machine(p));
	if (json)
		st = mt_cli_print_json(json_pack("{s:i, s:i, s:i, s:s, s:o, s:o}", "slices", p->slice_count, "slices_run",
						 p->run_count, "kernels", count, "store", path, "timing", timing_json(&p->timing),
						 "gpus", mt_health_json(p->gpus, p->gpu_count)));
	else {
		printf("%d slices, %d run, %d kernels timed, kept in %s\n", p->slice_count, p->run_count, count, path);
		print_timing(&p->timing);
		mt_health_print(p->gpus, p->gpu_count, stdout);
	}
out:
	free(rows);
	mt_store_close(store);
	free(path);
	return st;
}

static enum mt_status profile(struct profiler *p, bool json)
{
	struct mt_group *world = NULL;
	double most[2]; /* of a process' bytes, of drift */
	enum mt_status st = MT_OK;

	MT_GOTO(out, mt_group_create_all(p->fabric, "profile", &world));
	MT_GOTO(out, run_watched(p, world));
	most[0] = (double)p->process_bytes;
	MT_GOTO(out, mt_slices_drift(p->slices, p->slice_count, &most[1]));
	MT_GOTO(out, mt_comm_host_all_reduce(world, most, 2, MT_MAX));
	p->process_bytes = (int64_t)most[0];
	p->drift_frac = most[1];
	if (p->leader)
		st = save(p, json);
out:
	mt_group_destroy(world);
	return st;
}

enum mt_status mt_command_profile(int argc, char **argv)
{
	struct profiler p = {0};
	struct mt_cli cli = {
		.usage = "megatune profile MODEL --machine machine.yaml [options]",
		.summary = "Times the kernels that the layouts of MODEL need, with all ranks busy, and keeps them in the profile "
			   "store. Start it on as many ranks as will train: `mpirun -n N megatune profile MODEL ...`.",
		.tables = {&mt_tune_options_table},
		.values = {&p.session.options},
		.least_words = 1,
		.most_words = 1};
	enum mt_status st, parsed;

	mt_session_default(&p.session);
	p.session.command = "profile";
	st = mt_cli_parse(&cli, argc, argv);
	if (cli.helped)
		goto out;
	parsed = st;
	MT_GOTO(out, mt_job_open(&p.fabric));
	MT_GOTO(out, mt_job_agree(p.fabric, parsed == MT_OK ? open_all(&p, &cli) : parsed));
	st = profile(&p, cli.common.json);
	if (st != MT_OK)
		mt_job_give_up(p.fabric, st);
out:
	mt_device_destroy(p.device);
	mt_fabric_destroy(p.fabric);
	mt_slices_free(p.slices, p.slice_count);
	free(p.gpus);
	mt_cli_free(&cli);
	mt_session_free(&p.session);
	return st;
}
