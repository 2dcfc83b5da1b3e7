/* launch: see launch.h. Ranks are not bound: a rank's threads share the cores that the launcher gives the job. */
#define _GNU_SOURCE
#include "tuner/launch.h"

#include "base/file.h"
#include "comm/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct words {
	const char *argv[MT_LAUNCH_WORDS];
	int count;
	char *owned[8];
	int owned_count;
};

static void add(struct words *w, const char *word)
{
	if (w->count < MT_LAUNCH_WORDS - 1)
		w->argv[w->count++] = word;
}

static void keep(struct words *w, char *word)
{
	w->owned[w->owned_count++] = word;
}

/* The words of a launch command, split at blanks. */
static enum mt_status add_command(struct words *w, const char *command)
{
	char *copy = strdup(command), *state = NULL;

	if (!copy)
		return mt_fail(MT_NOMEM, "no memory for the launch command");
	keep(w, copy);
	for (char *word = strtok_r(copy, " \t", &state); word; word = strtok_r(NULL, " \t", &state))
		add(w, word);
	if (w->count == 0)
		return mt_fail(MT_INPUT, "the launch command is empty");
	return MT_OK;
}

/* What starts the ranks when no command was given. */
static enum mt_launch_choice choose(const struct mt_tune_options *options)
{
	char *mpirun;

	if (options->launcher != MT_LAUNCH_AUTO)
		return (enum mt_launch_choice)options->launcher;
	if (getenv("SLURM_JOB_ID"))
		return MT_LAUNCH_SRUN;
	mpirun = mt_fabric_usable("mpi") == MT_OK ? mt_process_find("mpirun") : NULL;
	mt_error_clear();
	free(mpirun);
	return mpirun ? MT_LAUNCH_MPIRUN : MT_LAUNCH_OWN;
}

static enum mt_status add_launcher(struct words *w, const struct mt_tune_options *options)
{
	enum mt_launch_choice choice = choose(options);
	bool slurm = choice == MT_LAUNCH_SRUN;
	char *program;

	if (options->launch)
		return add_command(w, options->launch);
	if (choice == MT_LAUNCH_OWN) {
		program = mt_process_self();
		if (!program)
			return mt_fail(MT_FAILED, "cannot find this program's own path in /proc/self/exe");
		keep(w, program);
		add(w, program);
		add(w, "launch");
		return MT_OK;
	}
	program = mt_process_find(slurm ? "srun" : "mpirun");
	if (!program)
		return mt_fail(MT_UNAVAILABLE,
			       "no %s on this machine, so it starts no ranks: install it, or use --launcher megatune",
			       slurm ? "srun" : "mpirun");
	keep(w, program);
	add(w, program);
	if (slurm) {
		add(w, "--mpi=pmix");
		return MT_OK;
	}
	if (geteuid() == 0)
		add(w, "--allow-run-as-root");
	add(w, "--oversubscribe");
	add(w, "--bind-to");
	add(w, "none");
	return MT_OK;
}

enum mt_status mt_launch(struct mt_process_result *result, const struct mt_tune_options *options, int ranks, int threads,
			 const char *const *args, double timeout_s)
{
	struct words w = {0};
	char number[16], *self = mt_process_self(), omp[32];
	const char *environment[] = {omp, "OMP_WAIT_POLICY=passive", NULL};
	enum mt_status st = MT_OK;

	if (!self)
		return mt_fail(MT_FAILED, "cannot find this program's own path in /proc/self/exe");
	snprintf(number, sizeof number, "%d", ranks);
	snprintf(omp, sizeof omp, "OMP_NUM_THREADS=%d", threads > 0 ? threads : 1);
	if (ranks > 1 || options->launch) {
		MT_GOTO(out, add_launcher(&w, options));
		add(&w, "-n");
		add(&w, number);
	}
	add(&w, self);
	for (int i = 0; args[i]; i++)
		add(&w, args[i]);
	if (w.count == MT_LAUNCH_WORDS - 1) {
		st = mt_fail(MT_INPUT, "the launch command has too many words (at most %d)", MT_LAUNCH_WORDS - 2);
		goto out;
	}
	st = mt_process_run(result, w.argv, environment, timeout_s);
out:
	for (int i = 0; i < w.owned_count; i++)
		free(w.owned[i]);
	free(self);
	return st;
}

char *mt_launch_text(const struct mt_tune_options *options, int ranks, const char *args)
{
	if (options->launch)
		return mt_string("%s -n %d megatune %s", options->launch, ranks, args);
	if (ranks == 1)
		return mt_string("megatune %s", args);
	switch (choose(options)) {
	case MT_LAUNCH_SRUN:
		return mt_string("srun -n %d megatune %s", ranks, args);
	case MT_LAUNCH_OWN:
		return mt_string("megatune launch -n %d megatune %s", ranks, args);
	default:
		return mt_string("mpirun -n %d megatune %s", ranks, args);
	}
}

/* The last line that is ours ("megatune: error: ..." or "[rank] ... error"), else the last line that says anything. */
void mt_launch_reason(const struct mt_process_result *result, char buf[240])
{
	const char *text = result->errors ? result->errors : "", *best = NULL;
	size_t length;

	if (result->timed_out) {
		snprintf(buf, 240, "took longer than its limit (%.0f s)", result->seconds);
		return;
	}
	for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		const char *end = strchrnul(line, '\n');

		if (memmem(line, (size_t)(end - line), "error", 5) && !memmem(line, (size_t)(end - line), "mpirun", 6)) {
			best = line;
			break;
		}
	}
	if (!best) {
		snprintf(buf, 240, "ended with exit code %d", result->exit_code);
		return;
	}
	length = strcspn(best, "\n");
	snprintf(buf, 240, "%.*s", (int)(length < 239 ? length : 239), best);
}
