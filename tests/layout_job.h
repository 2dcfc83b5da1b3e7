/* layout_job: a table of layouts run by one job, each row trained beside one rank as layout_trial.h does.
 *
 * Rows smaller than the job run side by side, each on a block of its ranks. What one rank trains is trained once for all rows that
 * name it, by the ranks in turn, and lies in a directory that all of them see. Arguments of such a program: "list" prints the rows,
 * numbers select them. */
#ifndef TESTS_LAYOUT_JOB_H
#define TESTS_LAYOUT_JOB_H

#include "base/random.h"
#include "engine/data.h"
#include "tests/layout_trial.h"

#include <unistd.h>

enum { JOB_PATH = 240, JOB_NAME = 64 };

struct job_row {
	struct mt_run run, plain;              /* plain: what one rank trains */
	const char *device;                    /* that one rank's */
	char reference[JOB_NAME];              /* its name: rows of one name share it */
	double first_bound, last_bound;        /* of the relative error of losses, at the first and the last step */
	double gradient_bound, gradient_least; /* see trial_compare_gradients; no bound: they are not compared */
	bool falls;                            /* the loss of one rank must */
	bool memory, activations;              /* peaks are the dry run's; see trial_compare_memory */
	bool twice;                            /* to the same bits */
};

struct job {
	const char *name;
	int count;
	/* Fills a row; data that are set with job_documents lie in the job's directory. */
	void (*make)(const struct job *job, int index, struct job_row *row);
	/* Made by the first rank for all, before any row; may be NULL. */
	void *shared;
	size_t shared_bytes;
	bool (*share)(void);
	int (*shared_count)(void); /* of rows, in place of count */
	/* of the runner */
	struct mt_fabric *fabric;
	struct mt_group *world;
	struct made_up made;
	char directory[JOB_PATH];
	struct job_row *rows; /* owned */
	bool *chosen;         /* owned */
	double *bad;          /* owned */
};

static inline void job_file(const struct job *job, const char *name, char path[2 * JOB_PATH])
{
	snprintf(path, 2 * JOB_PATH, "%s/%s", job->directory, name);
}

/* A run's data are the job's documents, of 1 to 20 tokens. */
static inline void job_documents(const struct job *job, struct mt_run *run)
{
	char path[2 * JOB_PATH];

	job_file(job, "data", path);
	free(run->data.path);
	run->data.path = strdup(path);
}

static inline enum mt_status job_write_documents(const struct job *job)
{
	enum { TEXTS = 120 };
	static int32_t tokens[TEXTS][20];
	const int32_t *pointers[TEXTS];
	int64_t lengths[TEXTS];
	char path[2 * JOB_PATH];

	job_file(job, "data", path);
	for (int d = 0; d < TEXTS; d++) {
		lengths[d] = 1 + (int64_t)mt_random_integer(3, 1, (uint64_t)d, 20);
		for (int64_t t = 0; t < lengths[d]; t++)
			tokens[d][t] = (int32_t)mt_random_integer(3, 2 + (uint64_t)d, (uint64_t)t, TINY_VOCAB);
		pointers[d] = tokens[d];
	}
	return mt_indexed_write(path, pointers, lengths, TEXTS, TINY_VOCAB);
}

/* Whether no count of rows depends on the data: all experts are here, or each gets its capacity. */
static inline bool job_counts_known(const struct mt_run *run)
{
	return run->model.experts == 0 || run->model.capacity_pad || (run->layout.ep == 1 && !(run->model.capacity > 0));
}

/* The first rank makes what all read: the directory, the documents, what is shared. */
static inline enum mt_status job_begin(struct job *job)
{
	size_t bytes = sizeof job->directory + job->shared_bytes;
	char *all = calloc((size_t)mt_fabric_size(job->fabric), bytes), *mine = calloc(1, bytes);
	enum mt_status st = MT_OK, made = MT_OK;

	if (mt_fabric_rank(job->fabric) == 0) {
		const char *under = getenv("TMPDIR");

		snprintf(job->directory, sizeof job->directory, "%s/layouts-XXXXXX", under ? under : "/tmp");
		if (!mkdtemp(job->directory))
			made = mt_fail(MT_IO, "%s cannot be made", job->directory);
		if (made == MT_OK)
			made = job_write_documents(job);
		if (made == MT_OK && job->share && !job->share())
			made = mt_fail(MT_FAILED, "what the rows need could not be made");
		memcpy(mine, job->directory, sizeof job->directory);
		if (job->shared)
			memcpy(mine + sizeof job->directory, job->shared, job->shared_bytes);
	}
	double bad = made != MT_OK;
	MT_GOTO(out, mt_comm_host_all_reduce(job->world, &bad, 1, MT_MAX));
	MT_GOTO(out, mt_comm_host_all_gather(job->world, mine, all, bytes));
	memcpy(job->directory, all, sizeof job->directory);
	if (job->shared)
		memcpy(job->shared, all + sizeof job->directory, job->shared_bytes);
	if (bad != 0)
		st = made != MT_OK ? made : mt_fail(MT_FAILED, "rank 0 could not begin");
out:
	free(all);
	free(mine);
	return st;
}

/* All rows, from what is shared on. */
static inline enum mt_status job_make_rows(struct job *job, int argc, char **argv)
{
	if (job->shared_count)
		job->count = job->shared_count();
	job->rows = calloc((size_t)job->count + 1, sizeof *job->rows);
	job->chosen = calloc((size_t)job->count + 1, sizeof *job->chosen);
	job->bad = calloc((size_t)job->count + 1, sizeof *job->bad);
	if (!job->rows || !job->chosen || !job->bad)
		return mt_fail(MT_NOMEM, "no memory for %d rows", job->count);
	for (int i = 0; i < job->count; i++) {
		job->make(job, i, &job->rows[i]);
		job->chosen[i] = argc < 2;
		for (int k = 1; k < argc; k++)
			job->chosen[i] |= atoi(argv[k]) == i;
	}
	return MT_OK;
}

static inline void job_text(const struct job_row *row, char text[200])
{
	static const char *const optimizers[] = {"adamw", "sgd", "muon"};
	char layout[96];

	mt_layout_text(&row->run.layout, layout);
	snprintf(text, 200, "%s, %s, %s: %s", row->run.model.name, mt_dtype_name((enum mt_dtype)row->run.layout.dtype),
		 optimizers[row->run.train.optimizer], layout);
}

static inline enum mt_status job_train_reference(const struct job *job, const struct job_row *row, struct mt_fabric *alone)
{
	struct trial *trial = calloc(1, sizeof *trial);
	char path[2 * JOB_PATH];
	enum mt_status st;

	if (!trial)
		return mt_fail(MT_NOMEM, "no memory for a reference");
	job_file(job, row->reference, path);
	MT_GOTO(out, trial_train(&row->plain, row->device, alone, row->gradient_bound > 0, trial));
	if (row->falls && !(trial->losses[trial->steps - 1] < trial->losses[0]))
		st = mt_fail(MT_FAILED, "%s: the loss of one rank does not fall", row->reference);
	else
		st = trial_save(trial, path);
out:
	trial_free(trial);
	free(trial);
	return st;
}

/* Whether row i is the first of the chosen that has its reference. */
static inline bool job_first_of_reference(const struct job *job, int i)
{
	for (int k = 0; k < i; k++) {
		if (job->chosen[k] && strcmp(job->rows[k].reference, job->rows[i].reference) == 0)
			return false;
	}
	return job->chosen[i];
}

static inline enum mt_status job_train_references(const struct job *job)
{
	struct mt_fabric *alone = NULL;
	int turn = 0;
	enum mt_status st;

	MT_GOTO(out, mt_fabric_block(&alone, job->fabric, 1));
	for (int i = 0; i < job->count && st == MT_OK; i++) {
		if (job_first_of_reference(job, i) && turn++ % mt_fabric_size(job->fabric) == mt_fabric_rank(job->fabric))
			st = job_train_reference(job, &job->rows[i], alone);
	}
out:
	mt_fabric_destroy(alone);
	return st;
}

static inline enum mt_status job_check_row(struct job *job, const struct job_row *row, struct mt_fabric *block, char why[TRIAL_WHY])
{
	struct trial *got = calloc(1, sizeof *got), *want = calloc(1, sizeof *want), *again = calloc(1, sizeof *again);
	char path[2 * JOB_PATH];
	enum mt_status st = MT_OK;

	if (!got || !want || !again)
		MT_GOTO(out, mt_fail(MT_NOMEM, "no memory for a trial"));
	job_file(job, row->reference, path);
	MT_GOTO(out, trial_load(want, path));
	MT_GOTO(out, trial_train(&row->run, "cpu", block, row->gradient_bound > 0, got));
	trial_compare_losses(got, want, row->first_bound, row->last_bound, why);
	if (row->gradient_bound > 0)
		trial_compare_gradients(got, want, row->gradient_bound, row->gradient_least, why);
	if (row->memory)
		MT_GOTO(out, trial_compare_memory(&row->run, got, block, &job->made, row->activations, why));
	if (row->twice) {
		MT_GOTO(out, trial_train(&row->run, "cpu", block, false, again));
		if (!why[0] && memcmp((const char *)got->losses, (const char *)again->losses, sizeof got->losses) != 0)
			snprintf(why, TRIAL_WHY, "the second run of the same layout differs in its bits");
	}
out:
	if (got && want && again) {
		trial_free(got);
		trial_free(want);
		trial_free(again);
	}
	free(got);
	free(want);
	free(again);
	return st;
}

/* The rows of one world, shared out over the blocks of so many ranks. */
static inline void job_run_rows(struct job *job, int world)
{
	int blocks = mt_fabric_size(job->fabric) / world, mine = mt_fabric_rank(job->fabric) / world, turn = 0;

	for (int i = 0; i < job->count; i++) {
		const struct job_row *row = &job->rows[i];
		char why[TRIAL_WHY] = "", text[200];
		struct mt_fabric *block = NULL;
		enum mt_status st;

		if (mt_layout_world(&row->run.layout) != world || !job->chosen[i] || turn++ % blocks != mine)
			continue;
		st = mt_fabric_block(&block, job->fabric, world);
		if (st == MT_OK)
			st = job_check_row(job, row, block, why);
		if (st != MT_OK)
			snprintf(why, sizeof why, "%.230s", mt_error_message());
		mt_error_clear();
		job_text(row, text);
		if (why[0])
			printf("FAILED %s %d: %s, rank %d: %s\n", job->name, i, text, mt_fabric_rank(job->fabric) % world, why);
		fflush(stdout);
		mt_fabric_destroy(block);
		job->bad[i] = why[0] != '\0';
	}
}

static inline enum mt_status job_run(struct job *job, int argc, char **argv)
{
	MT_TRY(job_begin(job));
	MT_TRY(job_make_rows(job, argc, argv));
	MT_TRY(job_train_references(job));
	MT_TRY(mt_comm_barrier(job->world));
	for (int i = 0; i < job->count; i++) {
		if (job->chosen[i] && mt_fabric_size(job->fabric) % mt_layout_world(&job->rows[i].run.layout))
			return mt_fail(MT_FAILED, "%s: row %d does not divide the job's ranks", job->name, i);
	}
	for (int world = mt_fabric_size(job->fabric); world >= 1; world /= 2)
		job_run_rows(job, world);
	return mt_comm_host_all_reduce(job->world, job->bad, job->count, MT_MAX);
}

static inline void job_clean_up(const struct job *job)
{
	static const char *const data[] = {"data.bin", "data.idx"};
	char path[2 * JOB_PATH];

	for (int i = 0; i < job->count + 2; i++) {
		job_file(job, i < job->count ? job->rows[i].reference : data[i - job->count], path);
		unlink(path);
	}
	rmdir(job->directory);
}

static inline void job_free(struct job *job)
{
	for (int i = 0; job->rows && i < job->count; i++) {
		mt_run_free(&job->rows[i].run);
		mt_run_free(&job->rows[i].plain);
	}
	free(job->rows);
	free(job->chosen);
	free(job->bad);
}

static inline int job_list(struct job *job)
{
	bool made = (!job->share || job->share()) && job_make_rows(job, 0, NULL) == MT_OK;

	for (int i = 0; i < job->count && made; i++) {
		char text[200];

		job_text(&job->rows[i], text);
		printf("%3d %2d ranks %s\n", i, (int)mt_layout_world(&job->rows[i].run.layout), text);
	}
	job_free(job);
	return made ? 0 : 4;
}

/* The program: its exit code. */
static inline int job_main(struct job *job, int argc, char **argv)
{
	struct mt_fabric_config config = {.kind = mt_fabric_launched() ? "mpi" : "self"};
	int failed = 0, ran = 0;

	if (argc > 1 && strcmp(argv[1], "list") == 0)
		return job_list(job);
	if (mt_fabric_create(&job->fabric, &config) != MT_OK || mt_group_create_all(job->fabric, "test", &job->world) != MT_OK) {
		fprintf(stderr, "%s\n", mt_error_message());
		return 4;
	}
	make_up(&job->made, mt_fabric_size(job->fabric), 1, 10, 1e10, 1e10, 1e-6);
	if (job_run(job, argc, argv) != MT_OK) {
		fprintf(stderr, "rank %d: %s\n", mt_fabric_rank(job->fabric), mt_error_message());
		mt_fabric_abort(job->fabric, 4);
	}
	for (int i = 0; i < job->count; i++) {
		failed += job->bad[i] != 0;
		ran += job->chosen[i];
	}
	if (mt_fabric_rank(job->fabric) == 0) {
		printf("%d passed, %d failed, 0 skipped\n", ran - failed, failed);
		job_clean_up(job);
	}
	job_free(job);
	make_up_end(&job->made);
	mt_group_destroy(job->world);
	mt_fabric_destroy(job->fabric);
	return failed > 0 || ran == 0;
}

#endif
