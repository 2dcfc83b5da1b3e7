/* checkpoint_publish: the last act of a save, on one rank: the parts of all ranks become the manifest, the directory gets its name.
 *
 * Each rank left, beside its values, a part: what they are and their checksums. Only when all are there and the manifest is
 * on disk is the directory renamed. */
#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "engine/checkpoint_private.h"

#include <stdlib.h>
#include <unistd.h>

char *mt_checkpoint_part_path(const char *temporary, int rank)
{
	return mt_string("%s/rank-%05d.json", temporary, rank);
}

/* Moves the pieces of one part into `tensors`, and its file into `files`. */
static void merge_part(json_t *part, json_t *files, json_t *tensors)
{
	json_t *file = json_object_get(part, "file"), *piece;
	size_t i;

	json_array_foreach(json_object_get(part, "pieces"), i, piece)
	{
		const char *name = mt_json_get_string(piece, "name", "");
		json_t *tensor = json_object_get(tensors, name);

		if (!tensor) {
			tensor = json_pack("{s:O, s:[]}", "shape", json_object_get(piece, "shape"), "pieces");
			json_object_set_new(tensors, name, tensor);
		}
		json_object_set_new(piece, "file", json_integer((json_int_t)json_array_size(files)));
		json_array_append(json_object_get(tensor, "pieces"), piece);
		json_object_del(piece, "name");
		json_object_del(piece, "shape");
	}
	if (json_is_object(file))
		json_array_append(files, file);
}

static enum mt_status merge_parts(const struct mt_publication *p, json_t *files, json_t *tensors)
{
	for (int rank = 0; rank < p->ranks; rank++) {
		char *path = mt_checkpoint_part_path(p->temporary, rank);
		json_t *part = NULL;
		enum mt_status st;

		if (!path)
			return mt_fail(MT_NOMEM, "out of memory publishing a checkpoint");
		if (mt_file_exists(path))
			st = mt_json_load(&part, path);
		else
			st = mt_fail(MT_IO, "rank %d left nothing in %s: save_dir must be on a file system that all hosts share",
				     rank, p->temporary);
		if (st == MT_OK)
			merge_part(part, files, tensors);
		json_decref(part);
		free(path);
		MT_TRY(st);
	}
	return MT_OK;
}

static void remove_parts(const struct mt_publication *p)
{
	for (int rank = 0; rank < p->ranks; rank++) {
		char *path = mt_checkpoint_part_path(p->temporary, rank);

		if (path)
			unlink(path);
		free(path);
	}
}

/* Of those up to this one the newest `keep` stay. One that cannot be removed is no reason to stop. */
static void prune(const struct mt_publication *p)
{
	int64_t *steps;
	int count;

	if (p->keep <= 0 || mt_checkpoint_list(p->directory, &steps, &count) != MT_OK)
		return;
	while (count > 0 && steps[count - 1] > p->step)
		count--;
	for (int i = 0; i < count - p->keep; i++) {
		if (mt_checkpoint_remove(p->directory, steps[i]) != MT_OK) {
			mt_warn("%s", mt_error_message());
			mt_error_clear();
		}
	}
	free(steps);
}

enum mt_status mt_checkpoint_publish(const struct mt_publication *publication)
{
	json_t *manifest = json_deep_copy(publication->head), *files = json_array(), *tensors = json_object();
	char *path = mt_string("%s/manifest.json", publication->temporary);
	enum mt_status st;

	if (!manifest || !files || !tensors || !path) {
		st = mt_fail(MT_NOMEM, "out of memory publishing a checkpoint");
		goto out;
	}
	MT_GOTO(out, merge_parts(publication, files, tensors));
	json_object_set(manifest, "files", files);
	json_object_set(manifest, "tensors", tensors);
	remove_parts(publication);
	MT_GOTO(out, mt_json_save(manifest, path));
	MT_GOTO(out, mt_checkpoint_install(publication->directory, publication->temporary, publication->step));
	prune(publication);
out:
	free(path);
	json_decref(tensors);
	json_decref(files);
	json_decref(manifest);
	return st;
}
