/* stage_clock: see stage_clock.h. Where nothing is gathered, scattered or copied in every pass, only passes in which buckets are
 * reduced are run block by block; the others are one number. */
#include "tuner/stage_clock.h"

#include <stdlib.h>

static double later(double a, double b)
{
	return a > b ? a : b;
}

enum mt_status mt_stage_clock_open(struct mt_stage_clock *c, const struct mt_pipeline_stage *stage)
{
	int count = stage->tail ? stage->tail->bucket_count : 0;

	*c = (struct mt_stage_clock){.stage = stage, .now_s = stage->start_s, .scattered_last = -1, .narrow_bucket = {-1, -1}};
	c->each = stage->copy_s != NULL;
	c->buckets = calloc((size_t)count + 1, sizeof *c->buckets + 2 * sizeof(int));
	if (!c->buckets)
		return mt_fail(MT_NOMEM, "no memory for the clocks of %d buckets", count);
	c->here.items = (int *)(c->buckets + count + 1);
	c->pending.items = c->here.items + count;
	for (int i = 0; i < count; i++)
		c->each |= stage->tail->buckets[i].gathers || stage->tail->buckets[i].scatters;
	return MT_OK;
}

void mt_stage_clock_close(struct mt_stage_clock *c)
{
	free(c->buckets);
	c->buckets = NULL;
}

static int bucket_count(const struct mt_stage_clock *c)
{
	return c->stage->tail ? c->stage->tail->bucket_count : 0;
}

static const struct mt_bucket_cost *bucket(const struct mt_stage_clock *c, int i)
{
	return &c->stage->tail->buckets[i];
}

static bool used(const struct mt_stage_clock *c, int i, int unit)
{
	const struct mt_bucket_cost *b = bucket(c, i);

	if (unit < 0)
		return false;
	return b->tied ? unit == b->first_unit || unit == b->unit : b->first_unit <= unit && unit <= b->unit;
}

/* The buckets that a unit uses (-1: none), ascending; returns how many. */
static int used_by(const struct mt_stage_clock *c, int unit, const int **buckets)
{
	const struct mt_tail *t = c->stage->tail;

	if (!t || unit < 0)
		return 0;
	*buckets = t->used + t->used_from[unit];
	return t->used_from[unit + 1] - t->used_from[unit];
}

static void list_bucket(struct mt_clock_list *list, int bucket)
{
	int at = list->count++;

	for (; at > 0 && list->items[at - 1] > bucket; at--)
		list->items[at] = list->items[at - 1];
	list->items[at] = bucket;
}

static void unlist_bucket(struct mt_clock_list *list, int bucket)
{
	int kept = 0;

	for (int i = 0; i < list->count; i++) {
		if (list->items[i] != bucket)
			list->items[kept++] = list->items[i];
	}
	list->count = kept;
}

/* The compute stream waits for what was started on another. */
static void wait(struct mt_stage_clock *c, double until_s)
{
	if (until_s > c->now_s) {
		c->dp_wait_s += until_s - c->now_s;
		c->now_s = until_s;
	}
}

static void compute(struct mt_stage_clock *c, double seconds)
{
	c->now_s += seconds;
	c->more_compute_s += seconds;
}

/* A collective on a stream that follows the compute stream. */
static double start(struct mt_stage_clock *c, double *stream_s, const struct mt_bucket_cost *b, double seconds)
{
	*stream_s = later(*stream_s, c->now_s) + seconds;
	if (b->dense)
		c->dp_total_s += seconds;
	return *stream_s;
}

/* --- parameters, gathered a unit ahead --- */

static void await(struct mt_stage_clock *c, struct mt_bucket_clock *b)
{
	if (b->awaited)
		wait(c, b->gathered_s);
	b->awaited = false;
}

static void gather_unit(struct mt_stage_clock *c, int unit)
{
	const int *buckets;
	int count = used_by(c, unit, &buckets);

	for (int k = 0; k < count; k++) {
		int i = buckets[k];
		struct mt_bucket_clock *b = &c->buckets[i];

		if (!bucket(c, i)->gathers || b->here)
			continue;
		b->gathered_s = start(c, &c->dp_s, bucket(c, i), bucket(c, i)->gather_s);
		b->here = b->awaited = true;
		list_bucket(&c->here, i);
	}
}

static void params_enter(struct mt_stage_clock *c, int unit, int next)
{
	if (!c->each)
		return;
	for (int k = c->here.count - 1; k >= 0; k--) {
		int i = c->here.items[k];

		if (used(c, i, unit) || used(c, i, next))
			continue;
		await(c, &c->buckets[i]);
		c->buckets[i].here = false;
		unlist_bucket(&c->here, i);
	}
	gather_unit(c, unit);
	for (int k = 0; k < c->here.count; k++) {
		if (used(c, c->here.items[k], unit))
			await(c, &c->buckets[c->here.items[k]]);
	}
	gather_unit(c, next);
}

/* --- gradients, scattered in every pass --- */

static void take(struct mt_stage_clock *c, int i)
{
	struct mt_bucket_clock *b = &c->buckets[i];

	wait(c, b->scattered_s);
	if (b->summed)
		compute(c, bucket(c, i)->add_s);
	b->summed = true;
	b->pending = b->grad = false;
	unlist_bucket(&c->pending, i);
}

static void take_but(struct mt_stage_clock *c, int but)
{
	for (int k = 0; k < c->pending.count;) {
		if (c->pending.items[k] == but)
			k++;
		else
			take(c, c->pending.items[k]); /* which takes it off the list */
	}
}

static void grads_enter(struct mt_stage_clock *c, int unit)
{
	const int *buckets;
	int count = used_by(c, unit, &buckets);

	for (int k = 0; k < count; k++) {
		int i = buckets[k];
		struct mt_bucket_clock *b = &c->buckets[i];

		if (!bucket(c, i)->scatters || (b->grad && !b->pending))
			continue;
		if (b->pending)
			take(c, i);
		take_but(c, c->scattered_last);
		b->grad = true;
		compute(c, bucket(c, i)->clear_s);
	}
}

static void grads_leave(struct mt_stage_clock *c, int unit)
{
	const int *buckets;
	int count = used_by(c, unit, &buckets);

	for (int k = 0; k < count; k++) {
		int i = buckets[k];

		if (!bucket(c, i)->scatters || bucket(c, i)->unit != unit)
			continue;
		c->buckets[i].scattered_s = start(c, &c->dp_s, bucket(c, i), bucket(c, i)->scatter_s);
		if (!c->buckets[i].pending)
			list_bucket(&c->pending, i);
		c->buckets[i].pending = true;
		c->scattered_last = i;
	}
}

/* --- gradients, reduced once --- */

static void take_narrow(struct mt_stage_clock *c, int slot)
{
	if (c->narrow_bucket[slot] < 0)
		return;
	wait(c, c->narrow_s[slot]);
	compute(c, bucket(c, c->narrow_bucket[slot])->widen_s);
	c->narrow_bucket[slot] = -1;
}

static void reduce_bucket(struct mt_stage_clock *c, int i)
{
	const struct mt_bucket_cost *b = bucket(c, i);
	int slot = c->narrow_next % MT_CLOCK_NARROW_SLOTS;

	c->now_s += b->sum_s;
	c->tp_sum_s += b->sum_s;
	if (!b->shared)
		return;
	if (!b->narrow) {
		start(c, &c->dp_s, b, b->reduce_s);
		return;
	}
	c->narrow_next++;
	take_narrow(c, slot);
	compute(c, b->round_s);
	c->narrow_s[slot] = start(c, &c->dp_s, b, b->reduce_s);
	c->narrow_bucket[slot] = i;
}

static void reduce_unit(struct mt_stage_clock *c, int unit, bool last)
{
	if (c->each)
		grads_leave(c, unit);
	for (; last && c->next_bucket < bucket_count(c); c->next_bucket++) {
		int i = c->stage->tail->order[c->next_bucket];

		if (bucket(c, i)->unit > unit)
			break;
		if (!bucket(c, i)->scatters)
			reduce_bucket(c, i);
	}
}

void mt_stage_clock_finish(struct mt_stage_clock *c)
{
	for (int k = 0; k < c->here.count; k++)
		await(c, &c->buckets[c->here.items[k]]);
	take_but(c, -1);
	for (int i = 0; i < bucket_count(c); i++) {
		if (bucket(c, i)->scatters)
			start(c, &c->dp_s, bucket(c, i), bucket(c, i)->across_s);
	}
	wait(c, c->dp_s);
	for (int i = 0; i < MT_CLOCK_NARROW_SLOTS; i++)
		take_narrow(c, (c->narrow_next + i) % MT_CLOCK_NARROW_SLOTS);
}

/* --- passes --- */

static int last_unit(const struct mt_stage_clock *c)
{
	return c->stage->tail ? c->stage->tail->units - 1 : 0;
}

static int unit_of(const struct mt_stage_clock *c, int64_t layer)
{
	return last_unit(c) - 1 - (int)layer;
}

static int unit_after(const struct mt_stage_clock *c, const struct mt_pipeline_chunk *chunk, int64_t i)
{
	if (i + 1 < chunk->layers)
		return unit_of(c, chunk->first_layer + i + 1);
	return chunk->last ? 0 : -1;
}

static int unit_before(const struct mt_stage_clock *c, const struct mt_pipeline_chunk *chunk, int64_t i)
{
	return i > 0 ? unit_of(c, chunk->first_layer + i - 1) : -1;
}

static bool offloads(const struct mt_stage_clock *c, int64_t i)
{
	return c->stage->copy_s && i >= 0 && i < c->stage->offload_layers;
}

/* A copy on a stream that follows the compute stream; when it is over. */
static double copy(struct mt_stage_clock *c, double *stream_s, const struct mt_pipeline_chunk *chunk, int64_t i)
{
	*stream_s = later(*stream_s, c->now_s) + c->stage->copy_s[chunk->first_layer + i];
	return *stream_s;
}

static void forward(struct mt_stage_clock *c, const struct mt_pipeline_chunk *chunk)
{
	double away_s = 0, before_s;

	c->now_s += chunk->load_s;
	if (chunk->first) {
		params_enter(c, last_unit(c), unit_after(c, chunk, -1));
		c->now_s += c->stage->embedding->forward_s;
	}
	for (int64_t i = 0; i < chunk->layers; i++) {
		params_enter(c, unit_of(c, chunk->first_layer + i), unit_after(c, chunk, i));
		c->now_s += chunk->blocks[i]->forward_s;
		before_s = away_s;
		if (offloads(c, i - 1))
			c->now_s = later(c->now_s, before_s);
		if (offloads(c, i))
			away_s = copy(c, &c->offload_s, chunk, i);
	}
	if (offloads(c, chunk->layers - 1))
		c->now_s = later(c->now_s, away_s);
	if (chunk->last) {
		params_enter(c, 0, -1);
		c->now_s += c->stage->head->forward_s;
	}
}

void mt_stage_clock_forward(struct mt_stage_clock *c, int index)
{
	const struct mt_pipeline_chunk *chunk = &c->stage->chunks[index];

	if (c->each)
		forward(c, chunk);
	else
		c->now_s += chunk->forward_s;
}

static void backward(struct mt_stage_clock *c, const struct mt_pipeline_chunk *chunk, bool last, bool puts_off)
{
	double back_s = 0;
	bool coming = false;

	if (chunk->last) {
		params_enter(c, 0, unit_before(c, chunk, chunk->layers));
		grads_enter(c, 0);
		c->now_s += c->stage->head->backward_s;
		if (!puts_off)
			reduce_unit(c, 0, last);
	}
	for (int64_t i = chunk->layers - 1; i >= 0; i--) {
		int unit = unit_of(c, chunk->first_layer + i);

		if (offloads(c, i)) {
			if (!coming)
				back_s = copy(c, &c->fetch_s, chunk, i);
			c->now_s = later(c->now_s, back_s);
		}
		coming = offloads(c, i - 1);
		if (coming)
			back_s = copy(c, &c->fetch_s, chunk, i - 1);
		params_enter(c, unit, unit_before(c, chunk, i));
		grads_enter(c, unit);
		c->now_s += chunk->blocks[i]->backward_s + (puts_off ? 0 : chunk->blocks[i]->wgrad_s);
		if (!puts_off)
			reduce_unit(c, unit, last);
	}
	if (chunk->first) {
		grads_enter(c, last_unit(c));
		c->now_s += c->stage->embedding->backward_s;
	}
	if (chunk == c->stage->chunks && !puts_off)
		reduce_unit(c, last_unit(c), last);
}

void mt_stage_clock_backward(struct mt_stage_clock *c, int index, bool last, bool puts_off)
{
	const struct mt_pipeline_chunk *chunk = &c->stage->chunks[index];

	if (chunk->blocks && (c->each || (last && !puts_off)))
		backward(c, chunk, last, puts_off);
	else
		c->now_s += chunk->backward_s + (puts_off ? 0 : chunk->wgrad_s);
}

void mt_stage_clock_wgrad_first(struct mt_stage_clock *c, int index)
{
	const struct mt_pipeline_chunk *chunk = &c->stage->chunks[index];

	if (!chunk->blocks || chunk->layers == 0)
		return;
	c->begun_s = chunk->blocks[chunk->layers - 1]->first_wgrad_s;
	c->now_s += c->begun_s;
}

void mt_stage_clock_wgrad(struct mt_stage_clock *c, int index, bool last)
{
	const struct mt_pipeline_chunk *chunk = &c->stage->chunks[index];
	double begun_s = c->begun_s;

	c->begun_s = 0;
	if (!chunk->blocks || (!c->each && !last)) {
		c->now_s += chunk->wgrad_s - begun_s;
		return;
	}
	if (chunk->last)
		reduce_unit(c, 0, last);
	c->now_s -= begun_s;
	for (int64_t i = chunk->layers - 1; i >= 0; i--) {
		c->now_s += chunk->blocks[i]->wgrad_s;
		reduce_unit(c, unit_of(c, chunk->first_layer + i), last);
	}
	if (chunk == c->stage->chunks)
		reduce_unit(c, last_unit(c), last);
}
