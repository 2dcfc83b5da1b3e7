/* tape: see tape.h. */
#include "engine/tape.h"

#include <stdlib.h>

void mt_tapes_free(struct mt_block_tapes *tapes)
{
	for (int i = 0; i < MT_TAPE_PASSES; i++)
		free(tapes->pass[i].events);
	*tapes = (struct mt_block_tapes){0};
}

static enum mt_status append(struct mt_tape *tape, struct mt_tape_event event)
{
	if (tape->count == tape->room) {
		int room = tape->room ? 2 * tape->room : 32;
		struct mt_tape_event *events = realloc(tape->events, (size_t)room * sizeof *events);

		if (!events)
			return mt_fail(MT_NOMEM, "no memory for a tape of %d events", room);
		tape->events = events;
		tape->room = room;
	}
	tape->events[tape->count++] = event;
	return MT_OK;
}

/* The number of a live tensor, -1: it has none. */
static int number_of(const struct mt_taped *taped, const void *tensor)
{
	for (int i = 0; i < taped->tapes->tensors; i++) {
		if (taped->at[i] == tensor)
			return i;
	}
	return -1;
}

/* -1: there is none. */
static int free_number(const struct mt_taped *taped)
{
	for (int i = MT_TAPE_FIRST; i < MT_TAPE_TENSORS; i++) {
		if (!taped->at[i])
			return i;
	}
	return -1;
}

static enum mt_status hear(struct mt_recorder *r, const void *pointer, size_t bytes, bool logits)
{
	struct mt_taped *taped = r->taped;
	int number = bytes ? free_number(taped) : number_of(taped, pointer);

	if (number < 0 && bytes)
		return mt_fail(MT_FAILED, "tape: a block of more than %d tensors", MT_TAPE_TENSORS);
	if (number < 0)
		return mt_fail(MT_FAILED, "tape: a block frees a tensor that it neither made nor was given");
	if (number >= taped->tapes->tensors)
		taped->tapes->tensors = number + 1;
	taped->at[number] = bytes ? pointer : NULL;
	return r->mute ? MT_OK
		       : append(&taped->tapes->pass[r->pass],
				(struct mt_tape_event){.bytes = (int64_t)bytes, .tensor = number, .logits = logits});
}

static void hear_activations(void *context, const void *pointer, size_t bytes)
{
	struct mt_recorder *r = context;

	if (r->taped && r->st == MT_OK)
		r->st = hear(r, pointer, bytes, false);
}

static void hear_logits(void *context, const void *pointer, size_t bytes)
{
	struct mt_recorder *r = context;

	if (r->taped && r->st == MT_OK)
		r->st = hear(r, pointer, bytes, true);
}

void mt_recorder_listen(struct mt_recorder *recorder, struct mt_arena *activations, struct mt_arena *logits)
{
	mt_arena_watch(activations, hear_activations, recorder);
	mt_arena_watch(logits, hear_logits, recorder);
}

void mt_recorder_stop(struct mt_arena *activations, struct mt_arena *logits)
{
	mt_arena_watch(activations, NULL, NULL);
	mt_arena_watch(logits, NULL, NULL);
}

void mt_recorder_set(struct mt_recorder *recorder, struct mt_taped *taped, enum mt_tape_pass pass)
{
	recorder->taped = taped;
	recorder->pass = pass;
}

enum mt_status mt_taped_hand_on(struct mt_taped *taped, const void *tensor, int *number)
{
	*number = number_of(taped, tensor);
	if (!tensor || *number < 0)
		return mt_fail(MT_FAILED, "tape: a block hands on a tensor that it neither made nor was given");
	taped->at[*number] = NULL;
	return MT_OK;
}

enum mt_status mt_taped_copy(struct mt_taped *taped, const void *tensor, size_t bytes)
{
	int number = number_of(taped, tensor);

	if (number < 0)
		return mt_fail(MT_FAILED, "tape: a layer keeps a tensor that it neither made nor was given");
	return append(&taped->tapes->pass[MT_TAPE_FETCH], (struct mt_tape_event){.bytes = (int64_t)bytes, .tensor = number});
}
