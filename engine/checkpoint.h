/* checkpoint: the whole state of a run on disk, saved beside the training and loaded at any layout.
 *
 * A checkpoint is a directory DIR/step-000000100: a safetensors file a rank that holds state of its own, and manifest.json,
 * which says what lies where. It is written under a hidden temporary name and renamed when every file and the manifest are
 * safe on disk: what has the final name is whole, whatever died at whatever moment.
 *
 * A parameter is known by its global name and matrix. What a rank writes of it is a piece: a run of elements, in row-major
 * order, of a box of that matrix (its tensor-parallel shard). A rank that loads asks for runs of its own boxes; every piece
 * that meets them is read and checked, so that no layout of writers has to fit that of the readers. Weights (f32 master
 * weights) and both moments are kept at full precision; with the step and the samples taken, that is all the state there is:
 * random numbers are a function of the seed. So a run that resumes at the same layout goes on bit for bit. */
#ifndef MT_ENGINE_CHECKPOINT_H
#define MT_ENGINE_CHECKPOINT_H

#include "engine/engine.h"
#include "engine/safetensors.h"

#include <jansson.h>

enum mt_state { MT_STATE_WEIGHT, MT_STATE_MOMENT1, MT_STATE_MOMENT2, MT_STATES };

const char *mt_state_name(enum mt_state state); /* "weight", "moment1", "moment2" */

/* Rows [row, row+rows) and columns [col, col+cols) of a global matrix, and of those, in row-major order, `count` elements
 * from `first`. */
struct mt_piece {
	int64_t row, rows, col, cols;
	int64_t first, count;
};

/* A checkpoint opened for reading. */
struct mt_checkpoint {
	char *directory;              /* owned */
	json_t *manifest;             /* owned */
	struct mt_safetensors *files; /* owned: path NULL while not opened */
	int file_count;
	int64_t step, samples; /* steps done, sequences taken */
};

/* Reads the manifest. MT_INPUT when it is no whole checkpoint. */
enum mt_status mt_checkpoint_open(struct mt_checkpoint *checkpoint, const char *directory);
void mt_checkpoint_close(struct mt_checkpoint *checkpoint); /* fine after a failed open */
/* The elements of `wanted` of one state of one parameter as f32 or f64. Checks what it reads: MT_INPUT names the tensor that
 * is damaged or missing. */
enum mt_status mt_checkpoint_read(struct mt_checkpoint *checkpoint, const char *name, enum mt_state state,
				  const struct mt_piece *wanted, enum mt_dtype dtype, void *values);
bool mt_checkpoint_has(const struct mt_checkpoint *checkpoint, const char *name, enum mt_state state);
/* Reads everything and calls `damaged` for each tensor that is not as it was written; MT_VERDICT when there was one. */
enum mt_status mt_checkpoint_verify(struct mt_checkpoint *checkpoint, int64_t *bytes,
				    void (*damaged)(void *context, const char *what), void *context);
/* The model as the manifest describes it; free with mt_model_free. */
enum mt_status mt_checkpoint_model(const struct mt_checkpoint *checkpoint, struct mt_model *model);

/* Directories. */
char *mt_checkpoint_path(const char *directory, int64_t step); /* free() it; NULL: out of memory */
/* The steps of the whole checkpoints below a directory, ascending; free() them. None, or no such directory: count 0. */
enum mt_status mt_checkpoint_list(const char *directory, int64_t **steps, int *count);
/* Removes what died while it was written or removed. */
void mt_checkpoint_clean(const char *directory);
/* Removes one: after a rename, so that it is never seen in part. */
enum mt_status mt_checkpoint_remove(const char *directory, int64_t step);
/* Gives the directory `temporary` the name of `step`, replacing what has it; both names durable. */
enum mt_status mt_checkpoint_install(const char *directory, const char *temporary, int64_t step);

/* Loads the state of this rank: weights, moments, step and samples. Collective in so far as every rank must do it. */
enum mt_status mt_checkpoint_load(struct mt_engine *engine, const char *directory);

/* Saving. All functions but destroy are collective over `world`, at the end of a step. */
struct mt_saver;

struct mt_saver_config {
	struct mt_engine *engine;
	struct mt_group *world;
	const struct mt_run *run;
	const char *directory;
	int64_t keep; /* newest checkpoints kept; 0: all */
};

enum mt_status mt_saver_create(struct mt_saver **saver, const struct mt_saver_config *config);
/* Waits for this rank's writer; what is not whole by then stays unfinished. */
void mt_saver_destroy(struct mt_saver *saver);
/* Copies this rank's state and starts to write it. The save before this one is finished first. `notes`: members for the
 * manifest, the same on every rank; borrowed. */
enum mt_status mt_saver_start(struct mt_saver *saver, json_t *notes);
/* 1 while this rank's files are being written, 0 when they are written or nothing is under way, -1 after a failure. */
int mt_saver_state(struct mt_saver *saver);
/* Once every rank's state is 0: the first rank makes the checkpoint visible, beside the training. */
enum mt_status mt_saver_publish(struct mt_saver *saver);
bool mt_saver_active(const struct mt_saver *saver); /* started and not yet published */
/* Waits until the save is whole under its name on every rank; the status of the first that failed, with its message there. */
enum mt_status mt_saver_finish(struct mt_saver *saver);

#endif
