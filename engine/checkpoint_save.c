/* checkpoint_save: a copy of this rank's state, and the thread that writes it while the training goes on.
 *
 * Start: the state is copied to the host (staging) and a thread writes it. At the ends of the following steps the ranks
 * tell each other how far they are; when all have written, the first one publishes, in its thread again. Threads make no
 * collective calls: what needs agreement is done by the ranks themselves, which meet at every step anyway. */
#include "base/file.h"
#include "base/json.h"
#include "engine/checkpoint_private.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#ifndef MT_VERSION
#define MT_VERSION "0"
#endif

enum { IDLE = 0, BUSY = 1, FAILED = -1 };

/* A parameter's part that this rank writes: its states follow each other in the file. */
struct part {
	int param, first_tensor, tensors;
	struct mt_piece piece;
	struct mt_state_run run;
};

struct mt_saver {
	struct mt_saver_config config;
	struct part *parts; /* owned */
	int part_count;
	struct mt_safetensor *tensors; /* owned, with their names */
	enum mt_state *states;         /* owned: of each tensor */
	uint64_t *sums;                /* owned: of each tensor, by the writer */
	int tensor_count;
	char *staging; /* owned: all tensors, as the file has them */
	size_t staging_bytes;

	char *temporary; /* owned: of the save under way */
	json_t *head;    /* owned: what its manifest begins with */
	int64_t step;
	bool active, threaded;
	pthread_t thread;
	atomic_int state;
	char message[512]; /* of a failure in the thread */
};

static enum mt_stored stored_type(const struct mt_engine *e, int state)
{
	enum mt_dtype dtype = mt_state_dtype(e, (enum mt_state)state);

	return dtype == MT_F64 ? MT_STORED_F64 : dtype == MT_BF16 ? MT_STORED_BF16 : MT_STORED_F32;
}

/* Whole rows keep their shape; a piece that begins or ends within one is a vector. */
static void shape_tensor(struct mt_safetensor *t, const struct mt_piece *p, enum mt_stored type)
{
	bool whole_rows = p->first % p->cols == 0 && p->count % p->cols == 0;

	t->type = type;
	t->dims = whole_rows && p->rows > 1 ? 2 : 1;
	t->shape[0] = t->dims == 2 ? p->count / p->cols : p->count;
	t->shape[1] = p->cols;
}

static enum mt_status add_part(struct mt_saver *s, int index)
{
	struct mt_engine *e = s->config.engine;
	struct part *part = &s->parts[s->part_count];

	*part = (struct part){.param = index, .first_tensor = s->tensor_count};
	mt_state_find(e, index, &part->run);
	mt_state_piece(e, index, part->run.first, part->run.count, &part->piece);
	part->run.count = part->piece.count;
	if (part->run.count == 0 || !mt_state_writes(e, index))
		return MT_OK;
	for (int state = 0; state < MT_STATES; state++) {
		struct mt_safetensor *t = &s->tensors[s->tensor_count];
		const char *name = e->table.params[index].name;

		if (!mt_state_at(e, index, &part->run, (enum mt_state)state))
			continue;
		shape_tensor(t, &part->piece, stored_type(e, state));
		t->name = state == MT_STATE_WEIGHT ? mt_string("%s", name)
						   : mt_string("%s.%s", name, mt_state_name((enum mt_state)state));
		if (!t->name)
			return mt_fail(MT_NOMEM, "no memory for the checkpoint of %s", name);
		s->states[s->tensor_count++] = (enum mt_state)state;
		part->tensors++;
		s->staging_bytes += (size_t)part->run.count * mt_stored_bytes(t->type);
	}
	s->part_count++;
	return MT_OK;
}

enum mt_status mt_saver_create(struct mt_saver **saver, const struct mt_saver_config *config)
{
	struct mt_saver *s = calloc(1, sizeof *s);
	size_t most = (size_t)config->engine->table.count + 1;
	enum mt_status st = MT_OK;

	*saver = NULL;
	if (!s)
		return mt_fail(MT_NOMEM, "no memory for checkpoints");
	s->config = *config;
	s->parts = calloc(most, sizeof *s->parts);
	s->tensors = calloc(most * MT_STATES, sizeof *s->tensors);
	s->states = calloc(most * MT_STATES, sizeof *s->states);
	s->sums = calloc(most * MT_STATES, sizeof *s->sums);
	if (!s->parts || !s->tensors || !s->states || !s->sums)
		st = mt_fail(MT_NOMEM, "no memory for checkpoints");
	for (int i = 0; i < config->engine->table.count && st == MT_OK; i++)
		st = add_part(s, i);
	if (st != MT_OK)
		mt_saver_destroy(s);
	else
		*saver = s;
	return st;
}

static void join(struct mt_saver *s)
{
	if (s->threaded)
		pthread_join(s->thread, NULL);
	s->threaded = false;
}

static void forget_save(struct mt_saver *s)
{
	free(s->temporary);
	json_decref(s->head);
	s->temporary = NULL;
	s->head = NULL;
	s->active = false;
	atomic_store(&s->state, IDLE);
}

void mt_saver_destroy(struct mt_saver *saver)
{
	if (!saver)
		return;
	join(saver);
	forget_save(saver);
	for (int i = 0; i < saver->tensor_count; i++)
		free((char *)saver->tensors[i].name);
	free(saver->parts);
	free(saver->tensors);
	free(saver->states);
	free(saver->sums);
	free(saver->staging);
	free(saver);
}

/* ---- the thread ---- */

static enum mt_status write_values(struct mt_saver *s, const char *name)
{
	char *path = mt_string("%s/%s", s->temporary, name);
	json_t *metadata = json_pack("{s:s, s:s}", "format", "pt", "producer", "megatune " MT_VERSION);
	struct mt_file file = {0};
	const char *values = s->staging;
	enum mt_status st;

	if (!path || !metadata) {
		st = mt_fail(MT_NOMEM, "no memory to write a checkpoint");
		goto out;
	}
	MT_GOTO(out, mt_file_create(&file, path));
	MT_GOTO(out, mt_safetensors_header(file.stream, s->tensors, s->tensor_count, metadata));
	for (int i = 0; i < s->tensor_count; i++) {
		size_t bytes = (size_t)s->tensors[i].bytes;

		s->sums[i] = XXH3_64bits(values, bytes);
		fwrite(values, 1, bytes, file.stream);
		values += bytes;
	}
	st = mt_file_commit(&file); /* finds write errors */
out:
	mt_file_abort(&file);
	json_decref(metadata);
	free(path);
	return st;
}

static json_t *describe_part(const struct mt_saver *s, const struct part *part)
{
	const struct mt_param *p = &s->config.engine->table.params[part->param];
	const struct mt_piece *q = &part->piece;
	json_t *sums = json_object();
	char text[20];

	for (int i = part->first_tensor; i < part->first_tensor + part->tensors; i++) {
		snprintf(text, sizeof text, "%016llx", (unsigned long long)s->sums[i]);
		json_object_set_new(sums, mt_state_name(s->states[i]), json_string(text));
	}
	return json_pack("{s:s, s:[I, I], s:[I, I, I, I], s:[I, I], s:o}", "name", p->name, "shape", (json_int_t)p->real_rows,
			 (json_int_t)p->global_cols, "box", (json_int_t)q->row, (json_int_t)q->rows, (json_int_t)q->col,
			 (json_int_t)q->cols, "range", (json_int_t)q->first, (json_int_t)q->count, "xxh3", sums);
}

static enum mt_status write_part(struct mt_saver *s, const char *name)
{
	json_t *part = json_object(), *pieces = json_array();
	char *path = mt_checkpoint_part_path(s->temporary, mt_group_rank(s->config.world));
	enum mt_status st = MT_OK;

	for (int i = 0; i < s->part_count; i++)
		json_array_append_new(pieces, describe_part(s, &s->parts[i]));
	json_object_set_new(part, "pieces", pieces);
	if (s->part_count > 0)
		json_object_set_new(part, "file", json_pack("{s:s, s:I}", "name", name, "bytes", (json_int_t)s->staging_bytes));
	st = path ? mt_json_save(part, path) : mt_fail(MT_NOMEM, "no memory to write a checkpoint");
	free(path);
	json_decref(part);
	return st;
}

static void keep_failure(struct mt_saver *s, enum mt_status st)
{
	if (st != MT_OK)
		snprintf(s->message, sizeof s->message, "%s", mt_error_message());
	mt_error_clear();
	atomic_store(&s->state, st == MT_OK ? IDLE : FAILED);
}

static void *run_writer(void *argument)
{
	struct mt_saver *s = argument;
	enum mt_status st = mt_file_make_directory(s->temporary);
	char name[40];

	snprintf(name, sizeof name, "rank-%05d.safetensors", mt_group_rank(s->config.world));
	if (st == MT_OK && s->part_count > 0)
		st = write_values(s, name);
	if (st == MT_OK)
		st = write_part(s, name);
	keep_failure(s, st);
	return NULL;
}

static void *run_publisher(void *argument)
{
	struct mt_saver *s = argument;
	struct mt_publication p = {.directory = s->config.directory,
				   .temporary = s->temporary,
				   .step = s->step,
				   .keep = s->config.keep,
				   .ranks = mt_group_size(s->config.world),
				   .head = s->head};

	keep_failure(s, mt_checkpoint_publish(&p));
	return NULL;
}

static enum mt_status start_thread(struct mt_saver *s, void *(*function)(void *))
{
	atomic_store(&s->state, BUSY);
	if (pthread_create(&s->thread, NULL, function, s) == 0)
		s->threaded = true;
	else
		function(s); /* no thread to be had: the training waits */
	return MT_OK;
}

/* ---- the ranks ---- */

static enum mt_status stage(struct mt_saver *s)
{
	struct mt_engine *e = s->config.engine;
	char *to;

	if (!s->staging)
		s->staging = malloc(s->staging_bytes + 1);
	if (!s->staging)
		return mt_fail(MT_NOMEM, "no memory for %zu bytes of a checkpoint's staging copy", s->staging_bytes);
	to = s->staging;
	for (int i = 0; i < s->part_count; i++) {
		const struct part *part = &s->parts[i];

		for (int t = part->first_tensor; t < part->first_tensor + part->tensors; t++) {
			size_t bytes = (size_t)part->run.count * mt_stored_bytes(s->tensors[t].type);

			MT_TRY(mt_device_download(e->device, e->compute, to, mt_state_at(e, part->param, &part->run, s->states[t]),
						  bytes));
			to += bytes;
		}
	}
	return MT_OK;
}

static json_t *make_head(const struct mt_saver *s, json_t *notes)
{
	const struct mt_run *run = s->config.run;
	json_t *head = json_object(), *value;
	const char *key;

	json_object_set_new(head, "format", json_string("megatune checkpoint"));
	json_object_set_new(head, "version", json_integer(1));
	json_object_set_new(head, "program", json_string("megatune " MT_VERSION));
	json_object_set_new(head, "step", json_integer(s->config.engine->step));
	json_object_set_new(head, "samples", json_integer(s->config.engine->samples));
	json_object_set_new(head, "skipped_steps", json_integer(s->config.engine->skipped));
	if ((value = mt_fp8_json(s->config.engine)))
		json_object_set_new(head, "fp8", value);
	if (s->config.engine->loss_scale.dynamic)
		json_object_set_new(head, "loss_scale", mt_loss_scale_json(&s->config.engine->loss_scale));
	json_object_set_new(head, "seed", json_integer(run->train.seed));
	json_object_foreach(notes, key, value) json_object_set(head, key, value);
	json_object_set_new(head, "model", mt_options_json(&mt_model_options, &run->model));
	json_object_set_new(head, "layout", mt_options_json(&mt_layout_options, &run->layout));
	json_object_set_new(head, "train", mt_options_json(&mt_train_options_table, &run->train));
	json_object_set_new(head, "data", mt_options_json(&mt_data_options_table, &run->data));
	return head;
}

enum mt_status mt_saver_start(struct mt_saver *saver, json_t *notes)
{
	struct mt_saver *s = saver;

	MT_TRY(mt_saver_finish(s));
	s->step = s->config.engine->step;
	s->temporary = mt_string("%s/.step-%09lld.tmp", s->config.directory, (long long)s->step);
	s->head = make_head(s, notes);
	if (!s->temporary || !s->head)
		return mt_fail(MT_NOMEM, "no memory to start a checkpoint");
	MT_TRY(stage(s));
	s->active = true;
	s->message[0] = '\0';
	return start_thread(s, run_writer);
}

int mt_saver_state(struct mt_saver *saver)
{
	return atomic_load(&saver->state);
}

bool mt_saver_active(const struct mt_saver *saver)
{
	return saver->active;
}

enum mt_status mt_saver_publish(struct mt_saver *saver)
{
	join(saver);
	saver->active = false;
	return mt_group_rank(saver->config.world) == 0 ? start_thread(saver, run_publisher) : MT_OK;
}

/* Whether any rank's thread failed; collective. */
static enum mt_status any_failed(struct mt_saver *s, bool *failed)
{
	double value;

	join(s);
	value = atomic_load(&s->state) == FAILED;
	MT_TRY(mt_comm_host_all_reduce(s->config.world, &value, 1, MT_MAX));
	*failed = value > 0;
	return MT_OK;
}

/* The first rank's message that has one, told to all, which end with the same status. */
static enum mt_status tell_failure(struct mt_saver *s, const char *message, int64_t step)
{
	int size = mt_group_size(s->config.world), rank = 0;
	char *all = calloc((size_t)size, sizeof s->message);
	enum mt_status st;

	if (!all)
		return mt_fail(MT_NOMEM, "no memory for the messages of %d ranks", size);
	MT_GOTO(out, mt_comm_host_all_gather(s->config.world, message, all, sizeof s->message));
	while (rank < size - 1 && !all[(size_t)rank * sizeof s->message])
		rank++;
	st = mt_fail(MT_IO, "the checkpoint of step %lld was not saved: rank %d: %s", (long long)step, rank,
		     all + (size_t)rank * sizeof s->message);
out:
	free(all);
	return st;
}

enum mt_status mt_saver_finish(struct mt_saver *saver)
{
	struct mt_saver *s = saver;
	char message[sizeof s->message];
	int64_t step = s->step;
	bool failed = false;

	if (!s->temporary)
		return MT_OK;
	MT_TRY(any_failed(s, &failed));
	if (!failed && s->active) {
		MT_TRY(mt_saver_publish(s));
		MT_TRY(any_failed(s, &failed));
	}
	memcpy(message, s->message, sizeof message);
	memset(s->message, 0, sizeof s->message);
	forget_save(s);
	if (failed && mt_group_rank(s->config.world) == 0)
		mt_checkpoint_clean(s->config.directory);
	return failed ? tell_failure(s, message, step) : MT_OK;
}
