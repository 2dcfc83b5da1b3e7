/* weights_export: a source's weights as files that other programs read.
 *
 * One tensor is in memory at a time: the header, which comes first, needs only shapes. */
#include "base/file.h"
#include "base/json.h"
#include "engine/param.h"
#include "engine/weights.h"

#include <stdlib.h>
#include <string.h>

/* A tensor of the output and the parameters it is made of: those whose place has its name. */
struct output {
	char name[96];
	bool transposed;
	int64_t rows, cols; /* (out, in) as we have it */
	int64_t bytes;      /* as it will be written */
	int shard;
};

struct export
{
	struct mt_weights *weights;
	enum mt_export format;
	enum mt_stored type;
	struct mt_param_table table;
	struct output *outputs; /* owned */
	int count, shards;
};

static enum mt_status find_place(const struct export *x, const struct mt_param *p, struct mt_hf_place *place)
{
	if (x->format == MT_EXPORT_HF)
		return mt_hf_find(x->weights->model, p->name, place);
	memset(place, 0, sizeof *place);
	snprintf(place->name, sizeof place->name, "%s", p->name);
	return MT_OK;
}

static struct output *find_output(struct export *x, const char *name)
{
	for (int i = x->count - 1; i >= 0; i--) {
		if (strcmp(x->outputs[i].name, name) == 0)
			return &x->outputs[i];
	}
	return NULL;
}

/* The table lists what the backward pass finishes first: read from its end, it begins with the embeddings. */
static enum mt_status list_outputs(struct export *x, int64_t shard_bytes)
{
	int64_t used = 0;

	x->outputs = calloc((size_t)x->table.count + 1, sizeof *x->outputs);
	if (!x->outputs)
		return mt_fail(MT_NOMEM, "no memory for %d tensors", x->table.count);
	for (int i = x->table.count - 1; i >= 0; i--) {
		const struct mt_param *p = &x->table.params[i];
		struct mt_hf_place place;
		struct output *o;

		MT_TRY(find_place(x, p, &place));
		if (find_output(x, place.name))
			continue;
		o = &x->outputs[x->count++];
		*o = (struct output){.transposed = place.transposed,
				     .rows = place.outputs ? place.outputs : p->real_rows,
				     .cols = p->global_cols};
		snprintf(o->name, sizeof o->name, "%s", place.name);
		o->bytes = o->rows * o->cols * (int64_t)mt_stored_bytes(x->type);
		if (used > 0 && shard_bytes > 0 && used + o->bytes > shard_bytes) {
			x->shards++;
			used = 0;
		}
		o->shard = x->shards;
		used += o->bytes;
	}
	x->shards++;
	return MT_OK;
}

/* A whole output, f32, transposed as it must be stored. */
static enum mt_status gather(struct export *x, const struct output *o, float *out)
{
	float *values = malloc((size_t)(o->rows * o->cols) * sizeof *values + 1);
	enum mt_status st = MT_OK;

	if (!values)
		return mt_fail(MT_NOMEM, "no memory for %s", o->name);
	for (int i = 0; i < x->table.count && st == MT_OK; i++) {
		const struct mt_param *p = &x->table.params[i];
		struct mt_piece all = {.rows = p->real_rows, .cols = p->global_cols, .count = p->real_rows * p->global_cols};
		struct mt_hf_place place;

		MT_GOTO(out, find_place(x, p, &place));
		if (strcmp(place.name, o->name) != 0)
			continue;
		st = mt_weights_read(x->weights, p->name, &all, MT_F32, values + place.first * p->global_cols);
	}
	for (int64_t row = 0; row < o->rows && st == MT_OK; row++) {
		for (int64_t col = 0; col < o->cols; col++)
			out[o->transposed ? col * o->rows + row : row * o->cols + col] = values[row * o->cols + col];
	}
out:
	free(values);
	return st;
}

static enum mt_status write_tensor(struct export *x, const struct output *o, FILE *stream)
{
	size_t count = (size_t)(o->rows * o->cols);
	float *values = malloc(count * sizeof *values + 1);
	void *stored = malloc((size_t)o->bytes + 1);
	enum mt_status st = values && stored ? gather(x, o, values) : mt_fail(MT_NOMEM, "no memory for %s", o->name);

	if (st == MT_OK) {
		mt_stored_encode(MT_F32, values, x->type, stored, (int64_t)count);
		fwrite(stored, 1, (size_t)o->bytes, stream);
	}
	free(stored);
	free(values);
	return st;
}

static void describe(const struct export *x, const struct output *o, struct mt_safetensor *t)
{
	bool vector = o->rows == 1 || o->cols == 1;

	*t = (struct mt_safetensor){.name = o->name, .type = x->type, .dims = vector ? 1 : 2};
	t->shape[0] = vector ? o->rows * o->cols : o->transposed ? o->cols : o->rows;
	t->shape[1] = o->transposed ? o->rows : o->cols;
}

static enum mt_status write_file(struct export *x, int shard, const char *path)
{
	struct mt_safetensor *tensors = calloc((size_t)x->count + 1, sizeof *tensors);
	json_t *metadata = json_pack("{s:s}", "format", "pt");
	struct mt_file file = {0};
	enum mt_status st;
	int count = 0;

	if (!tensors || !metadata) {
		st = mt_fail(MT_NOMEM, "no memory for the header of %s", path);
		goto out;
	}
	for (int i = 0; i < x->count; i++) {
		if (x->outputs[i].shard == shard)
			describe(x, &x->outputs[i], &tensors[count++]);
	}
	MT_GOTO(out, mt_file_create(&file, path));
	MT_GOTO(out, mt_safetensors_header(file.stream, tensors, count, metadata));
	for (int i = 0; i < x->count; i++) {
		if (x->outputs[i].shard == shard)
			MT_GOTO(out, write_tensor(x, &x->outputs[i], file.stream));
	}
	st = mt_file_commit(&file);
out:
	mt_file_abort(&file);
	json_decref(metadata);
	free(tensors);
	return st;
}

static void name_file(const struct export *x, int shard, char name[48])
{
	if (x->shards == 1)
		snprintf(name, 48, "model.safetensors");
	else
		snprintf(name, 48, "model-%05d-of-%05d.safetensors", shard + 1, x->shards);
}

static enum mt_status save_json(json_t *root, const char *directory, const char *name)
{
	char *path = mt_string("%s/%s", directory, name);
	enum mt_status st = path && root ? mt_json_save(root, path) : mt_fail(MT_NOMEM, "no memory for %s", name);

	json_decref(root);
	free(path);
	return st;
}

static json_t *make_index(const struct export *x)
{
	json_t *map = json_object();
	int64_t bytes = 0;
	char name[48];

	for (int i = 0; i < x->count; i++) {
		name_file(x, x->outputs[i].shard, name);
		json_object_set_new(map, x->outputs[i].name, json_string(name));
		bytes += x->outputs[i].bytes;
	}
	return json_pack("{s:{s:I}, s:o}", "metadata", "total_size", (json_int_t)bytes, "weight_map", map);
}

/* The files first, what refers to them after. */
static enum mt_status write_hf(struct export *x, const char *to)
{
	char name[48];

	MT_TRY(mt_file_make_directory(to));
	for (int shard = 0; shard < x->shards; shard++) {
		char *path;
		enum mt_status st;

		name_file(x, shard, name);
		path = mt_string("%s/%s", to, name);
		st = path ? write_file(x, shard, path) : mt_fail(MT_NOMEM, "no memory for %s", name);
		free(path);
		MT_TRY(st);
	}
	if (x->shards > 1)
		MT_TRY(save_json(make_index(x), to, "model.safetensors.index.json"));
	return save_json(mt_hf_config(x->weights->model, x->type), to, "config.json");
}

enum mt_status mt_weights_export(struct mt_weights *weights, enum mt_export format, enum mt_stored type, int64_t shard_bytes,
				 const char *to)
{
	const struct mt_layout layout = {.tp = 1, .pp = 1, .vp = 1, .cp = 1, .ep = 1, .dp = 1, .mbs = 1, .gbs = 1};
	struct export x = {.weights = weights, .format = format, .type = type};
	enum mt_status st;

	if (format == MT_EXPORT_HF)
		MT_TRY(mt_hf_check(weights->model));
	MT_TRY(mt_param_table_create(&x.table, weights->model, &layout, (struct mt_coordinates){0}));
	MT_GOTO(out, list_outputs(&x, format == MT_EXPORT_HF ? shard_bytes : 0));
	st = format == MT_EXPORT_HF ? write_hf(&x, to) : write_file(&x, 0, to);
out:
	free(x.outputs);
	mt_param_table_free(&x.table);
	return st;
}
