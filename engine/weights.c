/* weights: reading them by our names, from our checkpoints and from Hugging Face directories. */
#include "engine/weights.h"

#include "base/file.h"
#include "base/json.h"
#include "engine/checkpoint_private.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static enum mt_status add_file(struct mt_weights *w, const char *name)
{
	if (strchr(name, '/'))
		return mt_fail(MT_INPUT, "%s: the index names '%s', which is no file beside it", w->directory, name);
	w->names[w->file_count] = strdup(name);
	return w->names[w->file_count++] ? MT_OK : mt_fail(MT_NOMEM, "out of memory opening %s", w->directory);
}

static int find_name(const struct mt_weights *w, const char *name)
{
	for (int i = 0; i < w->file_count; i++) {
		if (strcmp(w->names[i], name) == 0)
			return i;
	}
	return -1;
}

/* One file, or the files of an index. */
static enum mt_status list_files(struct mt_weights *w, const char *index_path)
{
	size_t most = 1;
	const char *tensor;
	json_t *file, *map;

	if (mt_file_exists(index_path)) {
		MT_TRY(mt_json_load(&w->index, index_path));
		most = json_object_size(json_object_get(w->index, "weight_map"));
		if (most == 0)
			return mt_fail(MT_INPUT, "%s has no weight_map", index_path);
	}
	w->names = calloc(most + 1, sizeof *w->names);
	w->files = calloc(most + 1, sizeof *w->files);
	if (!w->names || !w->files)
		return mt_fail(MT_NOMEM, "out of memory opening %s", w->directory);
	if (!w->index)
		return add_file(w, "model.safetensors");
	map = json_object_get(w->index, "weight_map");
	json_object_foreach(map, tensor, file)
	{
		if (!json_is_string(file))
			return mt_fail(MT_INPUT, "%s: tensor %s is in no file", index_path, tensor);
		if (find_name(w, json_string_value(file)) < 0)
			MT_TRY(add_file(w, json_string_value(file)));
	}
	return MT_OK;
}

enum mt_status mt_weights_open(struct mt_weights *weights, const char *directory, const struct mt_model *model)
{
	struct mt_weights *w = weights;
	char *manifest = mt_string("%s/manifest.json", directory), *index = mt_string("%s/model.safetensors.index.json", directory);
	char *single = mt_string("%s/model.safetensors", directory);
	enum mt_status st;

	*w = (struct mt_weights){.model = model, .directory = strdup(directory)};
	if (!manifest || !index || !single || !w->directory) {
		st = mt_fail(MT_NOMEM, "out of memory opening %s", directory);
	} else if (mt_file_exists(manifest)) {
		st = mt_checkpoint_open(&w->checkpoint, directory);
	} else if (mt_file_exists(index) || mt_file_exists(single)) {
		w->hf = true;
		st = mt_hf_check(model);
		if (st == MT_OK)
			st = list_files(w, index);
	} else {
		st = mt_fail(MT_INPUT, "%s holds no weights: neither manifest.json nor model.safetensors nor its index", directory);
	}
	if (st != MT_OK)
		mt_weights_close(w);
	free(single);
	free(index);
	free(manifest);
	return st;
}

void mt_weights_close(struct mt_weights *weights)
{
	mt_checkpoint_close(&weights->checkpoint);
	for (int i = 0; i < weights->file_count; i++) {
		mt_safetensors_close(&weights->files[i]);
		free(weights->names[i]);
	}
	free(weights->names);
	free(weights->files);
	free(weights->directory);
	json_decref(weights->index);
	memset(weights, 0, sizeof *weights);
}

/* The tensor of that name and its file; *tensor NULL: there is none. */
static enum mt_status find_tensor(struct mt_weights *w, const char *name, const struct mt_safetensors **file,
				  const struct mt_safetensor **tensor)
{
	const char *in = w->index ? json_string_value(json_object_get(json_object_get(w->index, "weight_map"), name)) : w->names[0];
	int i = in ? find_name(w, in) : -1;

	*tensor = NULL;
	if (i < 0)
		return MT_OK;
	if (!w->files[i].path) {
		char *path = mt_string("%s/%s", w->directory, w->names[i]);
		enum mt_status st = path ? mt_safetensors_open(&w->files[i], path) : mt_fail(MT_NOMEM, "out of memory");

		free(path);
		MT_TRY(st);
	}
	*file = &w->files[i];
	*tensor = mt_safetensors_find(*file, name);
	return MT_OK;
}

/* GPT-2 is found with the prefix of the whole model and without, as its first release has it. */
static enum mt_status find_place(struct mt_weights *w, const struct mt_hf_place *place, const struct mt_safetensors **file,
				 const struct mt_safetensor **tensor)
{
	static const char prefix[] = "transformer.";

	MT_TRY(find_tensor(w, place->name, file, tensor));
	if (!*tensor && strncmp(place->name, prefix, sizeof prefix - 1) == 0)
		MT_TRY(find_tensor(w, place->name + sizeof prefix - 1, file, tensor));
	return *tensor ? MT_OK : mt_fail(MT_INPUT, "%s has no tensor %s", w->directory, place->name);
}

struct reader {
	const struct mt_safetensors *file;
	const struct mt_safetensor *tensor;
	void *stored; /* owned: one run */
	enum mt_dtype dtype;
	char *values;
};

static enum mt_status read_run(const struct reader *r, int64_t first, int64_t count, int64_t to)
{
	MT_TRY(mt_safetensors_read(r->file, r->tensor, first, count, r->stored));
	mt_stored_decode(r->tensor->type, r->stored, r->dtype, r->values + (size_t)to * mt_dtype_bytes(r->dtype), count);
	return MT_OK;
}

/* Column c of the box is a run of the stored row. */
static enum mt_status read_transposed(struct reader *r, const struct mt_hf_place *place, const struct mt_piece *w, int64_t rows)
{
	char *column = malloc((size_t)rows * mt_dtype_bytes(r->dtype) + 1), *values = r->values;
	size_t size = mt_dtype_bytes(r->dtype);
	enum mt_status st = MT_OK;

	if (!column)
		return mt_fail(MT_NOMEM, "no memory to read %s", place->name);
	r->values = column;
	for (int64_t c = 0; c < w->cols; c++) {
		MT_GOTO(out, read_run(r, (w->col + c) * r->tensor->shape[1] + place->first + w->row, rows, 0));
		for (int64_t row = 0; row < rows; row++)
			memcpy(values + (size_t)(row * w->cols + c) * size, column + (size_t)row * size, size);
	}
out:
	r->values = values;
	free(column);
	return st;
}

static enum mt_status read_hf(struct mt_weights *w, const char *name, const struct mt_piece *p, enum mt_dtype dtype, void *values)
{
	int64_t rows = p->count / p->cols, longest = rows * p->cols;
	struct reader r = {.dtype = dtype, .values = values};
	struct mt_hf_place place;
	int64_t outputs, inputs;
	enum mt_status st = MT_OK;

	MT_TRY(mt_hf_find(w->model, name, &place));
	MT_TRY(find_place(w, &place, &r.file, &r.tensor));
	outputs = r.tensor->shape[place.transposed || r.tensor->dims == 1 ? r.tensor->dims - 1 : 0];
	inputs = r.tensor->dims == 1 ? 1 : r.tensor->shape[place.transposed ? 0 : 1];
	if (r.tensor->dims < 1 || r.tensor->dims > 2)
		return mt_fail(MT_INPUT, "%s: tensor %s is no matrix", r.file->path, r.tensor->name);
	if (r.tensor->dims == 1 ? place.first + p->row * p->cols + p->col + longest > outputs
				: place.first + p->row + rows > outputs || p->col + p->cols > inputs)
		return mt_fail(MT_INPUT, "%s: tensor %s is %lld x %lld, too small for %s of this model", r.file->path,
			       r.tensor->name, (long long)outputs, (long long)inputs, name);
	r.stored = malloc((size_t)longest * mt_stored_bytes(r.tensor->type) + 8);
	if (!r.stored)
		return mt_fail(MT_NOMEM, "no memory to read %s", name);
	if (r.tensor->dims == 1)
		st = read_run(&r, place.first + p->row * p->cols + p->col, longest, 0);
	else if (place.transposed)
		st = read_transposed(&r, &place, p, rows);
	else if (p->cols == inputs)
		st = read_run(&r, (place.first + p->row) * inputs, longest, 0);
	else
		for (int64_t row = 0; row < rows && st == MT_OK; row++)
			st = read_run(&r, (place.first + p->row + row) * inputs + p->col, p->cols, row * p->cols);
	free(r.stored);
	return st;
}

enum mt_status mt_weights_read(struct mt_weights *weights, const char *name, const struct mt_piece *wanted, enum mt_dtype dtype,
			       void *values)
{
	if (!weights->hf)
		return mt_checkpoint_read(&weights->checkpoint, name, MT_STATE_WEIGHT, wanted, dtype, values);
	return read_hf(weights, name, wanted, dtype, values);
}

static enum mt_status load_weight(struct mt_engine *e, struct mt_weights *w, int index)
{
	const struct mt_param *p = &e->table.params[index];
	enum mt_dtype f = mt_grad_dtype(e->dtype);
	void *values = calloc((size_t)(p->rows * p->cols), mt_dtype_bytes(f));
	struct mt_piece piece;
	enum mt_status st;

	if (!values)
		return mt_fail(MT_NOMEM, "no memory to load %s", p->name);
	mt_state_piece(e, index, 0, p->rows * p->cols, &piece);
	st = piece.count > 0 ? mt_weights_read(w, p->name, &piece, f, values) : MT_OK;
	if (st == MT_OK)
		st = mt_state_set_weight(e, index, values);
	free(values);
	return st;
}

/* A source that says what model it is of must be of this one. */
static enum mt_status check_model(const struct mt_weights *w, const struct mt_model *model)
{
	json_t *theirs;
	struct mt_model other;
	char *config;
	enum mt_status st;

	if (!w->hf)
		return mt_checkpoint_check_model(model, json_object_get(w->checkpoint.manifest, "model"), w->directory);
	config = mt_string("%s/config.json", w->directory);
	if (!config || !mt_file_exists(config)) {
		free(config);
		return MT_OK;
	}
	st = mt_model_load(&other, config);
	free(config);
	MT_TRY(st);
	theirs = mt_options_json(&mt_model_options, &other);
	st = mt_checkpoint_check_model(model, theirs, w->directory);
	json_decref(theirs);
	mt_model_free(&other);
	return st;
}

enum mt_status mt_weights_load(struct mt_engine *engine, const char *directory)
{
	struct mt_weights w;
	enum mt_status st;

	MT_TRY(mt_weights_open(&w, directory, engine->model));
	MT_GOTO(out, check_model(&w, engine->model));
	for (int i = 0; i < engine->table.count; i++)
		MT_GOTO(out, load_weight(engine, &w, i));
out:
	mt_weights_close(&w);
	return st;
}

/* A config.json may tell of multi-token modules that were not saved with the rest. */
static enum mt_status drop_absent_modules(struct mt_model *model, const char *directory)
{
	const struct mt_safetensors *file;
	const struct mt_safetensor *tensor = NULL;
	struct mt_hf_place place;
	struct mt_weights w;
	char name[MT_PARAM_NAME];
	enum mt_status st;

	if (model->mtp == 0)
		return MT_OK;
	snprintf(name, sizeof name, "layer.%lld.mtp.join.weight", (long long)model->layers);
	MT_TRY(mt_weights_open(&w, directory, model));
	MT_GOTO(out, mt_hf_find(model, name, &place));
	MT_GOTO(out, find_tensor(&w, place.name, &file, &tensor));
	if (!tensor)
		model->mtp = 0;
out:
	mt_weights_close(&w);
	return st;
}

enum mt_status mt_weights_model(struct mt_model *model, const char *directory)
{
	char *manifest = mt_string("%s/manifest.json", directory);
	struct mt_checkpoint c = {0};
	enum mt_status st = MT_OK;
	bool ours = manifest && mt_file_exists(manifest);

	free(manifest);
	if (!ours) {
		MT_TRY(mt_model_load(model, directory));
		return drop_absent_modules(model, directory);
	}
	MT_TRY(mt_checkpoint_open(&c, directory));
	st = mt_checkpoint_model(&c, model);
	mt_checkpoint_close(&c);
	return st;
}
