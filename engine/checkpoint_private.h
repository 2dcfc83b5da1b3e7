/* checkpoint_private: between the checkpoint and the state of one rank. */
#ifndef MT_ENGINE_CHECKPOINT_PRIVATE_H
#define MT_ENGINE_CHECKPOINT_PRIVATE_H

#include "engine/checkpoint.h"
#include "engine/internal.h"

/* The local elements of a parameter, in row-major order, whose master weights and moments are on this rank: `count` from
 * `first`, at element `place` of the optimizer's buffers. */
struct mt_state_run {
	int64_t first, count, place, place2; /* place2: in the second moments, -1: there are none of it */
};

void mt_state_find(const struct mt_engine *e, int index, struct mt_state_run *run);
/* The type that a state is kept and written in. */
enum mt_dtype mt_state_dtype(const struct mt_engine *e, enum mt_state state);
/* Their address on the device; NULL when the optimizer has no such state. */
void *mt_state_at(const struct mt_engine *e, int index, const struct mt_state_run *run, enum mt_state state);
/* Local elements of a parameter in global terms, without padding. */
void mt_state_piece(const struct mt_engine *e, int index, int64_t first, int64_t count, struct mt_piece *piece);
/* Whether this rank is the one of those that hold the state which writes it. */
bool mt_state_writes(const struct mt_engine *e, int index);

/* Sets the weights of a parameter here from its whole local matrix (f32; f64 where gradients are): rounded to the engine's
 * type, the master copy not. */
enum mt_status mt_state_set_weight(struct mt_engine *e, int index, const void *values);

/* MT_INPUT names the first option in which a model, as mt_options_json gives it, differs in what its weights depend on. */
enum mt_status mt_checkpoint_check_model(const struct mt_model *model, const json_t *theirs, const char *where);

/* Merges the parts of all ranks into the manifest and gives the directory its name; then prunes. On one rank. */
struct mt_publication {
	const char *directory, *temporary;
	int64_t step, keep;
	int ranks;
	json_t *head; /* what the manifest begins with; borrowed */
};
enum mt_status mt_checkpoint_publish(const struct mt_publication *publication);
char *mt_checkpoint_part_path(const char *temporary, int rank); /* free() it */

#endif
