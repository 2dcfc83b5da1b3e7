/* checkpoint_read: pieces of the manifest put together to what a reader asks for.
 *
 * A piece is read in chunks from its beginning to its end, whatever part of it is wanted: its checksum is that of all of it, and
 * a state that was damaged on disk must never reach a run. */
#include "base/file.h"
#include "base/json.h"
#include "engine/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

enum { CHUNK = 1 << 20 }; /* elements */

const char *mt_state_name(enum mt_state state)
{
	static const char *const names[MT_STATES] = {"weight", "moment1", "moment2"};
	return names[state];
}

enum mt_status mt_checkpoint_open(struct mt_checkpoint *checkpoint, const char *directory)
{
	char *path = mt_string("%s/manifest.json", directory);
	struct mt_checkpoint *c = checkpoint;
	enum mt_status st;

	memset(c, 0, sizeof *c);
	if (!path)
		return mt_fail(MT_NOMEM, "out of memory opening %s", directory);
	if (!mt_file_exists(path)) {
		st = mt_fail(MT_INPUT, "%s is no whole checkpoint: it has no manifest.json", directory);
		goto out;
	}
	MT_GOTO(out, mt_json_load(&c->manifest, path));
	c->step = mt_json_get_int(c->manifest, "step", -1);
	c->samples = mt_json_get_int(c->manifest, "samples", -1);
	c->file_count = (int)json_array_size(json_object_get(c->manifest, "files"));
	if (strcmp(mt_json_get_string(c->manifest, "format", ""), "megatune checkpoint") != 0 || c->step < 0 || c->samples < 0 ||
	    !json_is_object(json_object_get(c->manifest, "tensors"))) {
		st = mt_fail(MT_INPUT, "%s is no manifest of a checkpoint", path);
		goto out;
	}
	if (mt_json_get_int(c->manifest, "version", 0) != 1) {
		st = mt_fail(MT_INPUT, "%s is of version %lld, this program reads 1", path,
			     (long long)mt_json_get_int(c->manifest, "version", 0));
		goto out;
	}
	c->directory = strdup(directory);
	c->files = calloc((size_t)c->file_count + 1, sizeof *c->files);
	st = c->directory && c->files ? MT_OK : mt_fail(MT_NOMEM, "out of memory opening %s", directory);
out:
	if (st != MT_OK)
		mt_checkpoint_close(c);
	free(path);
	return st;
}

void mt_checkpoint_close(struct mt_checkpoint *checkpoint)
{
	for (int i = 0; checkpoint->files && i < checkpoint->file_count; i++)
		mt_safetensors_close(&checkpoint->files[i]);
	free(checkpoint->files);
	free(checkpoint->directory);
	json_decref(checkpoint->manifest);
	memset(checkpoint, 0, sizeof *checkpoint);
}

enum mt_status mt_checkpoint_model(const struct mt_checkpoint *checkpoint, struct mt_model *model)
{
	const char *key;
	json_t *value;
	char where[512];

	snprintf(where, sizeof where, "%s/manifest.json", checkpoint->directory);
	mt_options_default(&mt_model_options, model);
	json_object_foreach(json_object_get(checkpoint->manifest, "model"), key, value)
	{
		char *text = json_is_string(value) ? strdup(json_string_value(value)) : json_dumps(value, JSON_ENCODE_ANY);
		enum mt_status st;

		if (json_is_null(value)) {
			free(text);
			continue;
		}
		st = text ? mt_options_set(&mt_model_options, model, key, text, where) : mt_fail(MT_NOMEM, "out of memory");
		free(text);
		if (st != MT_OK) {
			mt_model_free(model);
			return st;
		}
	}
	enum mt_status st = mt_model_complete(model, where);
	if (st != MT_OK)
		mt_model_free(model);
	return st;
}

/* One piece of the manifest and the tensor that holds it. */
struct stored_piece {
	struct mt_piece piece;
	const struct mt_safetensors *file;
	const struct mt_safetensor *tensor;
	char key[96];
	const char *checksum;
};

static bool sane(const struct mt_piece *p)
{
	return p->row >= 0 && p->rows > 0 && p->col >= 0 && p->cols > 0 && p->first >= 0 && p->count >= 0 &&
	       p->rows <= INT64_MAX / 8 / p->cols && p->count <= p->rows * p->cols && p->first <= p->rows * p->cols - p->count;
}

static enum mt_status find_file(struct mt_checkpoint *c, int64_t index, const struct mt_safetensors **file)
{
	json_t *entry = index >= 0 ? json_array_get(json_object_get(c->manifest, "files"), (size_t)index) : NULL;
	const char *name = mt_json_get_string(entry, "name", "");
	char *path;
	enum mt_status st;

	if (!*name || strchr(name, '/'))
		return mt_fail(MT_INPUT, "%s/manifest.json: a tensor lies in file %lld, which is not listed", c->directory,
			       (long long)index);
	*file = &c->files[index];
	if (c->files[index].path)
		return MT_OK;
	path = mt_string("%s/%s", c->directory, name);
	st = path ? mt_safetensors_open(&c->files[index], path) : mt_fail(MT_NOMEM, "out of memory opening %s", name);
	free(path);
	return st;
}

/* MT_UNAVAILABLE without a message: the state is not in this checkpoint. */
static enum mt_status parse_piece(struct mt_checkpoint *c, const char *name, enum mt_state state, const json_t *entry,
				  struct stored_piece *out)
{
	const json_t *box = json_object_get(entry, "box"), *range = json_object_get(entry, "range");
	struct mt_piece *p = &out->piece;

	out->checksum = mt_json_get_string(json_object_get(entry, "xxh3"), mt_state_name(state), NULL);
	if (!out->checksum)
		return MT_UNAVAILABLE;
	p->row = json_integer_value(json_array_get(box, 0));
	p->rows = json_integer_value(json_array_get(box, 1));
	p->col = json_integer_value(json_array_get(box, 2));
	p->cols = json_integer_value(json_array_get(box, 3));
	p->first = json_integer_value(json_array_get(range, 0));
	p->count = json_integer_value(json_array_get(range, 1));
	if (!sane(p))
		return mt_fail(MT_INPUT, "%s/manifest.json: a piece of %s has an impossible place", c->directory, name);
	MT_TRY(find_file(c, mt_json_get_int(entry, "file", -1), &out->file));
	snprintf(out->key, sizeof out->key, state == MT_STATE_WEIGHT ? "%s" : "%s.%s", name, mt_state_name(state));
	out->tensor = mt_safetensors_find(out->file, out->key);
	if (!out->tensor || out->tensor->bytes != p->count * (int64_t)mt_stored_bytes(out->tensor->type))
		return mt_fail(MT_INPUT, "%s: tensor %s is missing or of another size than the manifest says", out->file->path,
			       out->key);
	return MT_OK;
}

/* A run of one row in global terms: copies what `wanted` has of it. `stored` holds the run. Returns the elements copied. */
static int64_t copy_run(const struct mt_piece *wanted, int64_t row, int64_t col, int64_t count, enum mt_stored type,
			const char *stored, enum mt_dtype dtype, char *values)
{
	int64_t from = col > wanted->col ? col : wanted->col, to = col + count, place, n;

	if (to > wanted->col + wanted->cols)
		to = wanted->col + wanted->cols;
	if (row < wanted->row || row >= wanted->row + wanted->rows || from >= to)
		return 0;
	place = (row - wanted->row) * wanted->cols + from - wanted->col - wanted->first;
	n = to - from;
	if (place < 0) {
		from -= place;
		n += place;
		place = 0;
	}
	if (n > wanted->count - place)
		n = wanted->count - place;
	if (n <= 0)
		return 0;
	mt_stored_decode(type, stored + (size_t)(from - col) * mt_stored_bytes(type), dtype,
			 values + (size_t)place * mt_dtype_bytes(dtype), n);
	return n;
}

/* Elements [first, first+count) of a piece's box, row by row. */
static int64_t copy_chunk(const struct mt_piece *wanted, const struct mt_piece *piece, int64_t first, int64_t count,
			  enum mt_stored type, const char *stored, enum mt_dtype dtype, char *values)
{
	int64_t copied = 0;

	while (count > 0) {
		int64_t row = first / piece->cols, col = first % piece->cols;
		int64_t run = piece->cols - col < count ? piece->cols - col : count;

		copied += copy_run(wanted, piece->row + row, piece->col + col, run, type, stored, dtype, values);
		stored += (size_t)run * mt_stored_bytes(type);
		first += run;
		count -= run;
	}
	return copied;
}

static bool meets(const struct mt_piece *a, const struct mt_piece *b)
{
	int64_t a_first = a->row + a->first / a->cols, a_last = a->row + (a->first + a->count - 1) / a->cols;
	int64_t b_first = b->row + b->first / b->cols, b_last = b->row + (b->first + b->count - 1) / b->cols;

	return a->count > 0 && b->count > 0 && a_first <= b_last && b_first <= a_last && a->col < b->col + b->cols &&
	       b->col < a->col + a->cols;
}

/* Reads a piece whole; wanted NULL: only its checksum is looked at. */
static enum mt_status read_piece(const struct stored_piece *s, const struct mt_piece *wanted, enum mt_dtype dtype, void *values,
				 int64_t *copied)
{
	enum mt_stored type = s->tensor->type;
	char *chunk = malloc(CHUNK * mt_stored_bytes(type) + 1), sum[20];
	XXH3_state_t *state = XXH3_createState();
	enum mt_status st = MT_OK;

	if (!chunk || !state) {
		st = mt_fail(MT_NOMEM, "no memory to read %s", s->key);
		goto out;
	}
	XXH3_64bits_reset(state);
	for (int64_t done = 0; done < s->piece.count;) {
		int64_t n = s->piece.count - done < CHUNK ? s->piece.count - done : CHUNK;

		MT_GOTO(out, mt_safetensors_read(s->file, s->tensor, done, n, chunk));
		XXH3_64bits_update(state, chunk, (size_t)n * mt_stored_bytes(type));
		if (wanted)
			*copied += copy_chunk(wanted, &s->piece, s->piece.first + done, n, type, chunk, dtype, values);
		done += n;
	}
	snprintf(sum, sizeof sum, "%016llx", (unsigned long long)XXH3_64bits_digest(state));
	if (strcmp(sum, s->checksum) != 0)
		st = mt_fail(MT_INPUT, "%s: tensor %s is corrupted: its checksum is %s, written was %s; use another checkpoint",
			     s->file->path, s->key, sum, s->checksum);
out:
	XXH3_freeState(state);
	free(chunk);
	return st;
}

static json_t *pieces_of(const struct mt_checkpoint *c, const char *name)
{
	return json_object_get(json_object_get(json_object_get(c->manifest, "tensors"), name), "pieces");
}

bool mt_checkpoint_has(const struct mt_checkpoint *checkpoint, const char *name, enum mt_state state)
{
	const json_t *first = json_array_get(pieces_of(checkpoint, name), 0);

	return mt_json_get_string(json_object_get(first, "xxh3"), mt_state_name(state), NULL) != NULL;
}

enum mt_status mt_checkpoint_read(struct mt_checkpoint *checkpoint, const char *name, enum mt_state state,
				  const struct mt_piece *wanted, enum mt_dtype dtype, void *values)
{
	int64_t copied = 0;
	json_t *entry;
	size_t i;

	json_array_foreach(pieces_of(checkpoint, name), i, entry)
	{
		struct stored_piece s;
		enum mt_status st = parse_piece(checkpoint, name, state, entry, &s);

		if (st == MT_UNAVAILABLE)
			continue;
		MT_TRY(st);
		if (meets(&s.piece, wanted))
			MT_TRY(read_piece(&s, wanted, dtype, values, &copied));
	}
	if (copied != wanted->count)
		return mt_fail(MT_INPUT, "%s holds %lld of the %lld elements that are needed of %s (%s): it is of another model",
			       checkpoint->directory, (long long)copied, (long long)wanted->count, name, mt_state_name(state));
	return MT_OK;
}

enum mt_status mt_checkpoint_verify(struct mt_checkpoint *checkpoint, int64_t *bytes,
				    void (*damaged)(void *context, const char *what), void *context)
{
	enum mt_status verdict = MT_OK;
	const char *name;
	json_t *tensor, *entry;
	size_t i;

	*bytes = 0;
	json_object_foreach(json_object_get(checkpoint->manifest, "tensors"), name, tensor)
	{
		json_array_foreach(json_object_get(tensor, "pieces"), i, entry)
		{
			for (int state = 0; state < MT_STATES; state++) {
				struct stored_piece s;
				enum mt_status st = parse_piece(checkpoint, name, (enum mt_state)state, entry, &s);

				if (st == MT_UNAVAILABLE)
					continue;
				if (st == MT_OK)
					st = read_piece(&s, NULL, MT_F32, NULL, NULL);
				if (st == MT_NOMEM)
					return st;
				if (st == MT_OK) {
					*bytes += s.tensor->bytes;
					continue;
				}
				damaged(context, mt_error_message());
				mt_error_clear();
				verdict = MT_VERDICT;
			}
		}
	}
	return verdict;
}
