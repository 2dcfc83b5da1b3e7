/* compose: a layout's step time and memory from cards, as a closed form.
 *
 *   pass      F_s = layers_s * f + ends,  B_s = layers_s * b + ends           (stage s, one micro-batch)
 *   pipeline  sum_s (F_s + B_s) + 2(p-1) t_edge + (m-1) max_s (F_s + B_s)     (1F1B: fill and drain once, then the slowest stage)
 *   step      clear gradients + pipeline + exposed reduction + optimizer + parameter gather, of the slowest stage
 * The reduction hides behind the last micro-batch's backward pass but for its last bucket. */
#include "tuner/cost.h"

#include <stdlib.h>
#include <string.h>

struct entry {
	int64_t tp, mbs;
	int sp, recompute;
	struct mt_card card;
};

struct mt_card_cache {
	struct entry *entries; /* owned */
	int count, capacity;
};

enum mt_status mt_card_cache_create(struct mt_card_cache **cache)
{
	*cache = calloc(1, sizeof **cache);
	return *cache ? MT_OK : mt_fail(MT_NOMEM, "no memory for cards");
}

void mt_card_cache_destroy(struct mt_card_cache *cache)
{
	if (!cache)
		return;
	free(cache->entries);
	free(cache);
}

static enum mt_status find_card(struct mt_card_cache *cache, const struct mt_run *run, struct mt_cost_model *cost,
				const struct mt_card **card)
{
	const struct mt_layout *l = &run->layout;
	struct entry *e;

	for (int i = 0; i < cache->count; i++) {
		e = &cache->entries[i];
		if (e->tp == l->tp && e->mbs == l->mbs && e->sp == l->sp && e->recompute == l->recompute) {
			*card = &e->card;
			return MT_OK;
		}
	}
	if (cache->count == cache->capacity) {
		int capacity = cache->capacity ? 2 * cache->capacity : 32;

		e = realloc(cache->entries, (size_t)capacity * sizeof *e);
		if (!e)
			return mt_fail(MT_NOMEM, "no memory for %d cards", capacity);
		cache->entries = e;
		cache->capacity = capacity;
	}
	e = &cache->entries[cache->count];
	*e = (struct entry){.tp = l->tp, .mbs = l->mbs, .sp = l->sp, .recompute = l->recompute};
	MT_TRY(mt_card_measure(&e->card, run, mt_cost_ops(cost), mt_cost_comms(cost)));
	cache->count++;
	*card = &e->card;
	return MT_OK;
}

/* What a stage's share of the model costs. */
struct stage_cost {
	double forward_s, backward_s, tp_s; /* one micro-batch */
	double clear_s, reduce_s, update_s, gather_s;
	int64_t elements, shard;
	int buckets;
};

static double op_s(struct mt_cost_model *cost, enum mt_op_kind kind, enum mt_dtype dtype, int64_t count)
{
	struct mt_op op = {.kind = kind, .dtype = dtype};
	struct mt_op_key key;

	if (kind == MT_OP_FILL)
		op.move = (struct mt_move){.count = count, .src_dtype = dtype, .dst_dtype = dtype};
	else if (kind == MT_OP_SUMSQ)
		op.sumsq.count = count;
	else
		op.adamw.count = count;
	mt_op_key(&op, &key);
	return mt_profile_op_s(cost->profile, &key);
}

static double comm_s(struct mt_cost_model *cost, enum mt_comm_op op, enum mt_dtype dtype, int64_t bytes, int size, int stride,
		     const char *group)
{
	struct mt_comm_key key = {.op = op, .dtype = dtype, .bytes = bytes, .size = size, .stride = stride, .group = group};

	return size > 1 ? mt_machine_comm_s(cost->machine, &key, NULL) : 0;
}

static enum mt_status cost_stage(struct stage_cost *s, const struct mt_run *run, const struct mt_card *card,
				 struct mt_cost_model *cost, int stage)
{
	const struct mt_layout *l = &run->layout;
	int64_t first, layers, bucket_bytes;
	int dp = (int)l->dp, stride = (int)l->tp;
	bool zero = l->zero && dp > 1;

	memset(s, 0, sizeof *s);
	mt_layout_stage_layers(&run->model, l, stage, &first, &layers);
	MT_TRY(mt_card_elements(run, stage, &s->elements, &s->buckets));
	s->forward_s = (double)layers * card->layer.forward_s;
	s->backward_s = (double)layers * card->layer.backward_s;
	s->tp_s = (double)layers * card->layer.tp_s;
	if (stage == 0) {
		s->forward_s += card->embedding.forward_s;
		s->backward_s += card->embedding.backward_s;
		s->tp_s += card->embedding.tp_s;
	}
	if (stage == l->pp - 1) {
		s->forward_s += card->head.forward_s;
		s->backward_s += card->head.backward_s;
		s->tp_s += card->head.tp_s;
	}
	s->shard = zero ? s->elements / dp : s->elements;
	bucket_bytes = s->elements * 4 / (s->buckets ? s->buckets : 1);
	s->clear_s = op_s(cost, MT_OP_FILL, MT_F32, s->elements);
	s->update_s = op_s(cost, MT_OP_SUMSQ, MT_F32, s->shard) + op_s(cost, MT_OP_ADAMW, (enum mt_dtype)l->dtype, s->shard);
	s->reduce_s = s->buckets *
		      comm_s(cost, zero ? MT_COMM_REDUCE_SCATTER : MT_COMM_ALL_REDUCE, MT_F32, bucket_bytes, dp, stride, "dp");
	if (zero) {
		int64_t bytes = bucket_bytes / 4 * (int64_t)mt_dtype_bytes((enum mt_dtype)l->dtype);

		s->gather_s = s->buckets * comm_s(cost, MT_COMM_ALL_GATHER, (enum mt_dtype)l->dtype, bytes, dp, stride, "dp");
	}
	return MT_OK;
}

static int64_t page_up(int64_t bytes)
{
	return (bytes + (2 << 20) - 1) >> 21 << 21;
}

static void stage_memory(struct mt_stage_prediction *out, const struct mt_run *run, const struct mt_card *card,
			 const struct stage_cost *s, const struct mt_machine *machine, int stage)
{
	const struct mt_layout *l = &run->layout;
	int64_t m = mt_layout_microbatches(l), flights = l->pp - stage < m ? l->pp - stage : m, first, layers, size, kept;
	bool begins = stage == 0, ends = stage == l->pp - 1;

	mt_layout_stage_layers(&run->model, l, stage, &first, &layers);
	size = (int64_t)mt_dtype_bytes((enum mt_dtype)l->dtype);
	kept = layers * card->layer_kept_bytes + (begins ? card->token_bytes : 0) + (ends ? card->token_bytes : card->edge_bytes);
	out->arena_bytes[0] = s->elements * size;
	out->arena_bytes[1] = s->elements * 4;
	out->arena_bytes[2] = s->shard * (size == 2 ? 12 : 8);
	out->arena_bytes[3] = flights * kept + (ends && card->head_kept_bytes + card->head_work_bytes > card->layer_work_bytes
							? card->head_kept_bytes + card->head_work_bytes
							: card->layer_work_bytes);
	out->arena_bytes[4] = ends ? m * l->mbs * l->seq * 4 : 256;
	out->peak_bytes = out->resident_bytes = 0;
	for (int i = 0; i < MT_ENGINE_ARENAS; i++) {
		out->peak_bytes += out->arena_bytes[i];
		out->resident_bytes += page_up(out->arena_bytes[i]);
	}
	out->resident_bytes += machine->process_bytes;
}

/* Sums up: pipeline of all stages, tail of the slowest. */
static void compose(struct mt_candidate *c, const struct stage_cost *stages, double edge_s, double numbers_s)
{
	int64_t m = mt_layout_microbatches(&c->layout);
	double total = 0, slowest = 0, tail = 0, exposed = 0, optimizer = 0, tp = 0, gather = 0, pipeline;
	int p = (int)c->layout.pp;

	for (int s = 0; s < p; s++) {
		const struct stage_cost *x = &stages[s];
		double pass = x->forward_s + x->backward_s;
		double last = x->buckets ? x->reduce_s / x->buckets : 0;
		double hidden = x->backward_s * (x->buckets ? (double)(x->buckets - 1) / x->buckets : 0);
		double open = x->reduce_s - hidden > last ? x->reduce_s - hidden : last;

		total += pass;
		if (pass > slowest) {
			slowest = pass;
			tp = x->tp_s * (double)m;
		}
		if (open + x->update_s + x->gather_s + x->clear_s > tail) {
			tail = open + x->update_s + x->gather_s + x->clear_s;
			exposed = open;
			gather = x->gather_s;
			optimizer = x->update_s + x->clear_s;
		}
	}
	pipeline = total + 2 * (p - 1) * edge_s + (double)(m - 1) * slowest;
	c->step_s = pipeline + tail + numbers_s;
	c->tp_s = tp;
	c->dp_s = exposed + gather;
	c->pp_s = 2 * (p - 1) * edge_s;
	c->bubble_s = total - slowest;
	c->optimizer_s = optimizer + numbers_s;
	c->compute_s = c->step_s - c->tp_s - c->dp_s - c->pp_s - c->bubble_s - c->optimizer_s;
}

enum mt_status mt_predict_card(struct mt_candidate *candidate, const struct mt_model *model, struct mt_cost_model *cost,
			       struct mt_card_cache *cache)
{
	struct mt_layout *l = &candidate->layout;
	struct mt_run run = {.model = *model, .layout = *l};
	struct stage_cost *stages = calloc((size_t)l->pp, sizeof *stages);
	const struct mt_card *card = NULL;
	enum mt_status st;

	free(candidate->stage);
	candidate->stages = (int)l->pp;
	candidate->stage = calloc((size_t)l->pp, sizeof *candidate->stage);
	if (!stages || !candidate->stage) {
		st = mt_fail(MT_NOMEM, "no memory for %d stages", (int)l->pp);
		goto out;
	}
	MT_GOTO(out, find_card(cache, &run, cost, &card));
	for (int s = 0; s < l->pp; s++) {
		MT_GOTO(out, cost_stage(&stages[s], &run, card, cost, s));
		stage_memory(&candidate->stage[s], &run, card, &stages[s], cost->machine, s);
	}
	compose(candidate, stages,
		comm_s(cost, MT_COMM_SEND_RECV, (enum mt_dtype)l->dtype, card->edge_bytes, (int)l->pp, (int)(l->tp * l->dp), "pp"),
		comm_s(cost, MT_COMM_ALL_REDUCE, MT_F64, 16, (int)mt_layout_world(l), 1, "world"));
	candidate->fidelity = MT_FIDELITY_CARD;
	mt_predict_interval(candidate, cost);
out:
	free(stages);
	return st;
}
