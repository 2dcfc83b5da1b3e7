/* tape: what the passes of a block do with the activation arena, in order, recorded from the engine; so that it can be done again
 * on another arena without the engine, and how tensors lie there be known to the byte (tuner/footprint.c). */
#ifndef MT_ENGINE_TAPE_H
#define MT_ENGINE_TAPE_H

#include "base/arena.h"

/* The tensors of a block have numbers: its input, the gradient that comes back to it, then what its passes allocate, which takes
 * the least number that no live one has. */
enum { MT_TAPE_INPUT, MT_TAPE_GRADIENT, MT_TAPE_FIRST, MT_TAPE_TENSORS = 512 };

struct mt_tape_event {
	int64_t bytes; /* allocated; 0: freed */
	int tensor;
	bool logits; /* of logits, which may be held apart */
};

/* leave: a layer's tensors after they were copied out; fetch: those that are copied, in order. */
enum mt_tape_pass {
	MT_TAPE_FORWARD,
	MT_TAPE_BACKWARD,
	MT_TAPE_WGRAD_FIRST,
	MT_TAPE_WGRAD,
	MT_TAPE_LEAVE,
	MT_TAPE_FETCH,
	MT_TAPE_PASSES
};

struct mt_tape {
	struct mt_tape_event *events; /* owned */
	int count, room;
};

struct mt_block_tapes {
	struct mt_tape pass[MT_TAPE_PASSES];
	int tensors;          /* one more than the largest number */
	int output, gradient; /* what the forward and the backward pass hand on; of layers, embedding (output), head (gradient) */
};

void mt_tapes_free(struct mt_block_tapes *tapes);

/* A block under record: where its live tensors are. */
struct mt_taped {
	struct mt_block_tapes *tapes;
	const void *at[MT_TAPE_TENSORS];
};

/* Listens to two arenas. */
struct mt_recorder {
	struct mt_taped *taped; /* NULL: what happens is not recorded */
	enum mt_tape_pass pass;
	bool mute;         /* tensors are numbered, no events are kept */
	enum mt_status st; /* of what was heard */
};

/* Until they are stopped the arenas tell the recorder; `logits` is the one that logits are held in. */
void mt_recorder_listen(struct mt_recorder *recorder, struct mt_arena *activations, struct mt_arena *logits);
void mt_recorder_stop(struct mt_arena *activations, struct mt_arena *logits);
/* From now on what happens is a pass of this block. */
void mt_recorder_set(struct mt_recorder *recorder, struct mt_taped *taped, enum mt_tape_pass pass);
/* The number of a live tensor, which from now on is somebody else's. MT_FAILED when it has none. */
enum mt_status mt_taped_hand_on(struct mt_taped *taped, const void *tensor, int *number);
/* Notes in the tape `fetch` that this tensor is copied. */
enum mt_status mt_taped_copy(struct mt_taped *taped, const void *tensor, size_t bytes);

#endif
