/* wgrad: gradients of weights put off, for schedules that make a pass of them (zero bubble).
 *
 * While a flight collects, mt_linear_wgrad notes its operation here in place of running it, and what the operation reads is kept:
 * a release of such a tensor only hands it over. Running the notes frees them.
 *
 * Under sequence parallelism products read rows of all of tp. Kept until then, those would take tp times the place of what the
 * forward pass keeps; so a rank keeps its own rows and gathers: inputs once, as without putting off, gradients once more. */
#include "engine/internal.h"

#include <stdlib.h>

enum { PRODUCTS_A_LAYER = 8 }; /* more than any layer has */

enum mt_status mt_wgrads_create(struct mt_wgrads *list, int64_t layers)
{
	list->notes = calloc((size_t)layers * PRODUCTS_A_LAYER + 1, sizeof *list->notes);
	list->room = (int)layers * PRODUCTS_A_LAYER;
	return list->notes ? MT_OK : mt_fail(MT_NOMEM, "no memory for the weight gradients of %lld layers", (long long)layers);
}

void mt_wgrads_destroy(struct mt_wgrads *list)
{
	free(list->notes);
	list->notes = NULL;
}

enum mt_status mt_wgrads_note(struct mt_engine *e, const struct mt_op *op, enum mt_wgrad_rows shard)
{
	struct mt_wgrads *list = e->collecting;

	if (list->count == list->room)
		return mt_fail(MT_FAILED, "more than %d weight gradients in a pass", list->room);
	list->notes[list->count++] = (struct mt_wgrad){.op = *op, .shard = shard, .layer = e->collecting_layer};
	return MT_OK;
}

bool mt_wgrads_hold(const struct mt_engine *e, const void *tensor)
{
	const struct mt_wgrads *list = e->collecting;

	for (int i = list ? list->count - 1 : -1; i >= 0; i--) {
		if (list->notes[i].op.linear.x == tensor || list->notes[i].op.linear.dy == tensor)
			return true;
	}
	return false;
}

/* Frees a tensor, unless a note after `next` reads it too. */
static void release(struct mt_engine *e, const struct mt_wgrads *list, const void *tensor)
{
	for (int i = list->next + 1; i < list->count; i++) {
		if (list->notes[i].op.linear.x == tensor || list->notes[i].op.linear.dy == tensor)
			return;
	}
	mt_arena_free(e->arenas[ARENA_ACTIVATIONS], (void *)(uintptr_t)tensor);
}

static enum mt_status enqueue(struct mt_engine *e, const struct mt_wgrad *note)
{
	struct mt_op op = note->op;
	void *whole = NULL;

	if (note->shard == MT_ROWS_OF_X) {
		MT_TRY(mt_tp_gather(e, op.linear.x, &whole, op.linear.in));
		op.linear.x = whole;
	} else if (note->shard == MT_ROWS_OF_DY) {
		MT_TRY(mt_tp_gather(e, op.linear.dy, &whole, op.linear.out));
		op.linear.dy = whole;
	}
	MT_TRY(mt_engine_enqueue(e, &op));
	if (whole)
		mt_engine_release(e, &whole);
	return MT_OK;
}

static enum mt_status run_next(struct mt_engine *e, struct mt_wgrads *list)
{
	struct mt_wgrad *note = &list->notes[list->next];

	MT_TRY(enqueue(e, note));
	release(e, list, note->op.linear.x);
	release(e, list, note->op.linear.dy);
	list->next++;
	if (list->next == list->count)
		list->next = list->count = 0;
	return MT_OK;
}

static enum mt_status run(struct mt_engine *e, struct mt_wgrads *list, int layer)
{
	while (list->next < list->count && list->notes[list->next].layer == layer)
		MT_TRY(run_next(e, list));
	return MT_OK;
}

enum mt_status mt_wgrads_run_first(struct mt_engine *e, struct mt_wgrads *list)
{
	if (list->next == list->count)
		return MT_OK;
	mt_stream_list_begin(e->compute);
	return mt_stream_list_end(e->compute, run_next(e, list));
}

enum mt_status mt_wgrads_run(struct mt_engine *e, struct mt_wgrads *list, int layer)
{
	mt_stream_list_begin(e->compute);
	return mt_stream_list_end(e->compute, run(e, list, layer));
}

void mt_wgrads_drop(struct mt_engine *e, struct mt_wgrads *list)
{
	for (; list->next < list->count; list->next++) {
		release(e, list, list->notes[list->next].op.linear.x);
		release(e, list, list->notes[list->next].op.linear.dy);
	}
	list->next = list->count = 0;
}
