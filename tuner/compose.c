/* compose: a layout's step time and memory from cards.
 *
 *   pass       F_s = layers_s * f + ends,  B_s = layers_s * b + ends        (stage s, one micro-batch)
 *   pipeline   when each stage's passes end, from F_s, B_s and the schedule itself (tuner/pipeline.c)
 *   reduction  the last backward pass finishes unit after unit; what a unit completes is reduced beside the next ones, and only
 *              what is left after the pass is waited for
 *   step       clear + pipeline + what is left of the reduction + ends + norm, optimizer and gather; the last stage to end
 *
 * Activations of a stage at their peak, in a backward pass: what all flights keep, the last layer's work, and messages on the
 * way; on the last stage in the head instead, where that needs more. */
#include "tuner/cost.h"
#include "tuner/pipeline.h"

#include <stdlib.h>
#include <string.h>

struct entry {
	int64_t tp, cp, cp_inner, mbs;
	int cp_kind, documents;
	int sp, recompute;
	struct mt_card card;
};

/* The tails of the stages of one grid of ranks. */
struct grid {
	int64_t tp, pp, cp, dp, zero;
	int sp;
	struct mt_tail **tails; /* pp of them, in the cache's list: equal stages share one */
};

struct mt_card_cache {
	struct entry *entries; /* owned */
	int count, capacity;
	struct grid *grids; /* owned, their tails arrays too */
	int grid_count, grid_capacity;
	struct mt_tail **tails; /* owned, as what they point to */
	int tail_count, tail_capacity;
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
	for (int i = 0; i < cache->tail_count; i++) {
		mt_tail_free(cache->tails[i]);
		free(cache->tails[i]);
	}
	for (int i = 0; i < cache->grid_count; i++)
		free(cache->grids[i].tails);
	free(cache->tails);
	free(cache->grids);
	free(cache->entries);
	free(cache);
}

/* Room for one more of `size` bytes in an array of `count`. */
static enum mt_status reserve(void *array, int count, int *capacity, size_t size)
{
	void **at = array, *grown;
	int wanted = *capacity ? 2 * *capacity : 32;

	if (count < *capacity)
		return MT_OK;
	grown = realloc(*at, (size_t)wanted * size);
	if (!grown)
		return mt_fail(MT_NOMEM, "no memory for %d cards", wanted);
	*at = grown;
	*capacity = wanted;
	return MT_OK;
}

static enum mt_status find_card(struct mt_card_cache *cache, const struct mt_run *run, struct mt_cost_model *cost,
				const struct mt_card **card)
{
	const struct mt_layout *l = &run->layout;
	struct entry *e;

	for (int i = 0; i < cache->count; i++) {
		e = &cache->entries[i];
		if (e->tp == l->tp && e->mbs == l->mbs && e->sp == l->sp && e->recompute == l->recompute && e->cp == l->cp &&
		    e->cp_kind == l->cp_kind && e->cp_inner == l->cp_inner && e->documents == l->documents) {
			*card = &e->card;
			return MT_OK;
		}
	}
	MT_TRY(reserve(&cache->entries, cache->count, &cache->capacity, sizeof *cache->entries));
	e = &cache->entries[cache->count];
	*e = (struct entry){.tp = l->tp,
			    .mbs = l->mbs,
			    .sp = l->sp,
			    .recompute = l->recompute,
			    .cp = l->cp,
			    .cp_kind = l->cp_kind,
			    .cp_inner = l->cp_inner,
			    .documents = l->documents};
	MT_TRY(mt_card_measure(&e->card, run, mt_cost_ops(cost), mt_cost_comms(cost)));
	cache->count++;
	*card = &e->card;
	return MT_OK;
}

static int64_t layers_of(const struct mt_run *run, int stage)
{
	int64_t first, count;

	mt_layout_stage_layers(&run->model, &run->layout, stage, &first, &count);
	return count;
}

/* Middle stages of as many layers do the same. */
static bool alike(const struct mt_run *run, int a, int b)
{
	return a > 0 && b > 0 && a < run->layout.pp - 1 && b < run->layout.pp - 1 && layers_of(run, a) == layers_of(run, b);
}

static enum mt_status make_tail(struct mt_card_cache *cache, const struct mt_run *run, struct mt_cost_model *cost, int stage,
				struct mt_tail **tail)
{
	MT_TRY(reserve(&cache->tails, cache->tail_count, &cache->tail_capacity, sizeof *cache->tails));
	*tail = calloc(1, sizeof **tail);
	if (!*tail)
		return mt_fail(MT_NOMEM, "no memory for cards");
	cache->tails[cache->tail_count++] = *tail;
	return mt_tail_measure(*tail, run, stage, mt_cost_ops(cost), mt_cost_comms(cost));
}

static enum mt_status find_grid(struct mt_card_cache *cache, const struct mt_run *run, struct mt_cost_model *cost,
				struct mt_tail *const **tails)
{
	const struct mt_layout *l = &run->layout;
	struct grid *g;

	for (int i = 0; i < cache->grid_count; i++) {
		g = &cache->grids[i];
		if (g->tp == l->tp && g->pp == l->pp && g->cp == l->cp && g->dp == l->dp && g->zero == l->zero && g->sp == l->sp) {
			*tails = g->tails;
			return MT_OK;
		}
	}
	MT_TRY(reserve(&cache->grids, cache->grid_count, &cache->grid_capacity, sizeof *cache->grids));
	g = &cache->grids[cache->grid_count];
	*g = (struct grid){.tp = l->tp, .pp = l->pp, .cp = l->cp, .dp = l->dp, .zero = l->zero, .sp = l->sp};
	g->tails = calloc((size_t)l->pp, sizeof *g->tails);
	if (!g->tails)
		return mt_fail(MT_NOMEM, "no memory for cards");
	for (int s = 0; s < l->pp; s++) {
		for (int same = 0; same < s && !g->tails[s]; same++)
			g->tails[s] = alike(run, same, s) ? g->tails[same] : NULL;
		if (!g->tails[s]) {
			enum mt_status st = make_tail(cache, run, cost, s, &g->tails[s]);

			if (st != MT_OK) {
				free(g->tails);
				return st;
			}
		}
	}
	cache->grid_count++;
	*tails = g->tails;
	return MT_OK;
}

/* One stage of a layout: its cards, and what comes of them. */
struct stage {
	const struct mt_card *card;
	const struct mt_tail *tail;
	int64_t layers;
	bool first, last;
	double tp_s; /* one micro-batch */
	double sum_s;
	struct mt_pipeline_stage pipeline;
	double open_s, end_s; /* reduction waited for; end of the step */
};

static void cost_passes(struct stage *s)
{
	const struct mt_card *card = s->card;
	struct mt_pipeline_stage *p = &s->pipeline;

	p->start_s = s->tail->clear_s;
	p->forward_s = (double)s->layers * card->layer.forward_s;
	p->backward_s = (double)s->layers * card->layer.backward_s;
	s->tp_s = (double)s->layers * card->layer.tp_s;
	if (s->first) {
		p->forward_s += card->embedding.forward_s;
		p->backward_s += card->embedding.backward_s;
		s->tp_s += card->embedding.tp_s;
	}
	if (s->last) {
		p->forward_s += card->head.forward_s;
		p->backward_s += card->head.backward_s;
		s->tp_s += card->head.tp_s;
	}
	for (int unit = 0; unit < s->tail->units; unit++)
		s->sum_s += s->tail->sum_s[unit];
	p->last_extra_s = s->sum_s;
}

/* Reductions run one after the other beside the units of the last backward pass. */
static void finish(struct stage *s, bool overlap_steals)
{
	const struct mt_tail *t = s->tail;
	double now_s = s->pipeline.passes_end_s - s->pipeline.backward_s - s->sum_s, reduced_s = now_s, exposed_s;

	for (int unit = 0; unit < t->units; unit++) {
		bool layer = unit > 0 && unit < t->units - 1;

		now_s += layer ? s->card->layer.backward_s : 0;
		now_s += unit == 0 && s->last ? s->card->head.backward_s : 0;
		now_s += unit == t->units - 1 && s->first ? s->card->embedding.backward_s : 0;
		now_s += t->sum_s[unit];
		if (t->reduce_s[unit] > 0)
			reduced_s = (reduced_s > now_s ? reduced_s : now_s) + t->reduce_s[unit];
	}
	now_s = s->pipeline.end_s;
	s->open_s = reduced_s > now_s ? reduced_s - now_s : 0;
	s->end_s = now_s + s->open_s + t->ends_s + t->update_s;
	exposed_s = s->open_s + t->gather_s;
	if (overlap_steals && t->dp_total_s > exposed_s) /* as in the dry run */
		s->end_s += t->dp_total_s - exposed_s;
}

/* The split is that of the stage whose own work is most: it sets the pace. */
static void sum_up(struct mt_candidate *c, const struct stage *stages, bool overlap_steals)
{
	double m = (double)mt_layout_microbatches(&c->layout), bubble;
	const struct stage *pace = stages;
	double most = -1;

	c->step_s = 0;
	for (int i = 0; i < c->layout.pp; i++) {
		const struct stage *s = &stages[i];
		double own = m * (s->pipeline.forward_s + s->pipeline.backward_s - s->tp_s) + s->tail->clear_s;

		if (overlap_steals && s->tail->dp_total_s > s->open_s + s->tail->gather_s)
			own += s->tail->dp_total_s - s->open_s - s->tail->gather_s;
		if (s->end_s > c->step_s)
			c->step_s = s->end_s;
		if (own > most) {
			most = own;
			pace = s;
		}
	}
	c->compute_s = most;
	c->tp_s = m * pace->tp_s + pace->sum_s;
	c->dp_s = pace->open_s + pace->tail->gather_s;
	c->optimizer_s = pace->tail->update_s - pace->tail->gather_s;
	c->pp_s = c->step_s - c->compute_s - c->tp_s - c->dp_s - c->optimizer_s;
	if (c->pp_s < 0) /* rounding */
		c->pp_s = 0;
	bubble = (c->compute_s + c->tp_s) * (double)(c->layout.pp - 1) / m;
	c->bubble_s = bubble < c->pp_s ? bubble : c->pp_s;
	c->pp_s -= c->bubble_s;
}

static int64_t round_up(int64_t bytes, int64_t unit)
{
	return (bytes + unit - 1) / unit * unit;
}

/* Kept by all flights and needed by the block at work, the head or the last layer. */
static int64_t activations(const struct mt_layout *l, const struct stage *s, int64_t flights, int64_t edges)
{
	const struct mt_card *card = s->card;
	int64_t kept = s->layers * card->layer_kept_bytes + card->document_bytes + (s->first ? card->token_bytes : 0) +
		       (s->last ? card->token_bytes : 0);
	int64_t head = s->last ? card->head_work_bytes + (mt_logits_apart(l) ? 0 : card->logits_bytes) : 0;
	int64_t bytes = flights * kept + edges * card->edge_bytes + (head > card->layer_work_bytes ? head : card->layer_work_bytes);

	/* Where the logits leave a hole, what comes after may not fit it. */
	if (s->last && !mt_logits_apart(l)) {
		int64_t holes = (s->layers - 1) * card->layer_kept_bytes + (edges - 1) * card->edge_bytes +
				(s->first ? card->block_peak_bytes : card->last_peak_bytes);

		bytes = holes > bytes ? holes : bytes;
	}
	/* Messages on their way break up the space of tensors: measured. */
	return l->pp > 1 ? bytes + bytes / 20 : bytes;
}

static void stage_memory(struct mt_stage_prediction *out, const struct mt_layout *l, const struct stage *s, int index,
			 const struct mt_machine *machine)
{
	const struct mt_card *card = s->card;
	int64_t m = mt_layout_microbatches(l), flights = l->pp - index < m ? l->pp - index : m;
	bool apart = mt_logits_apart(l);
	int64_t loss_bytes = l->dtype == MT_F64 ? 8 : 4, edges = 0;

	/* On the way: the gradient of the micro-batch before, sent back; the next input, received; the output sent last. */
	if (l->pp > 1)
		edges = (!s->first && m > 1) + (!s->first && m > flights) + !s->last;
	out->arena_bytes[0] = s->tail->parameter_bytes;
	out->arena_bytes[1] = s->tail->gradient_bytes;
	out->arena_bytes[2] = s->tail->optimizer_bytes;
	out->arena_bytes[3] = activations(l, s, flights, edges + 1);
	out->arena_bytes[4] = MT_ARENA_ALIGN_BYTES + round_up(card->position_bytes, MT_ARENA_ALIGN_BYTES);
	if (s->last)
		out->arena_bytes[4] += round_up(m * l->mbs * (l->seq / l->cp) * loss_bytes, MT_ARENA_ALIGN_BYTES) +
				       (apart ? card->logits_bytes : 0);
	out->peak_bytes = 0;
	out->resident_bytes = machine->process_bytes;
	for (int i = 0; i < MT_ENGINE_ARENAS; i++) {
		out->peak_bytes += out->arena_bytes[i];
		out->resident_bytes += round_up(out->arena_bytes[i], 2 << 20); /* huge pages */
	}
}

static double edge_seconds(struct mt_cost_model *cost, const struct mt_layout *l, const struct mt_card *card)
{
	struct mt_comm_key key = {.op = MT_COMM_SEND_RECV,
				  .dtype = (enum mt_dtype)l->dtype,
				  .bytes = card->edge_bytes,
				  .size = (int)l->pp,
				  .stride = (int)(l->tp * l->cp * l->dp),
				  .group = "pp"};

	return l->pp > 1 ? mt_machine_comm_s(cost->machine, &key, NULL) : 0;
}

static enum mt_status time_stages(struct stage *stages, struct mt_candidate *c, struct mt_cost_model *cost)
{
	int count = (int)c->layout.pp;
	struct mt_pipeline_stage *pipeline = calloc((size_t)count, sizeof *pipeline);
	enum mt_status st;

	if (!pipeline)
		return mt_fail(MT_NOMEM, "no memory for %d stages", count);
	for (int s = 0; s < count; s++) {
		cost_passes(&stages[s]);
		pipeline[s] = stages[s].pipeline;
	}
	st = mt_pipeline_time(pipeline, count, mt_layout_microbatches(&c->layout), edge_seconds(cost, &c->layout, stages[0].card));
	for (int s = 0; s < count && st == MT_OK; s++) {
		stages[s].pipeline = pipeline[s];
		finish(&stages[s], cost->overlap_steals);
	}
	free(pipeline);
	if (st == MT_OK)
		sum_up(c, stages, cost->overlap_steals);
	return st;
}

enum mt_status mt_predict_card(struct mt_candidate *candidate, const struct mt_model *model, struct mt_cost_model *cost,
			       struct mt_card_cache *cache)
{
	struct mt_layout *l = &candidate->layout;
	struct mt_run run = {.model = *model, .layout = *l, .train = mt_cost_train(cost)};
	struct stage *stages = calloc((size_t)l->pp, sizeof *stages);
	struct mt_tail *const *tails = NULL;
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
	MT_GOTO(out, find_grid(cache, &run, cost, &tails));
	for (int s = 0; s < l->pp; s++) {
		stages[s] = (struct stage){
			.card = card, .tail = tails[s], .layers = layers_of(&run, s), .first = s == 0, .last = s == l->pp - 1};
		stage_memory(&candidate->stage[s], l, &stages[s], s, cost->machine);
	}
	MT_GOTO(out, time_stages(stages, candidate, cost));
	candidate->fidelity = MT_FIDELITY_CARD;
	mt_predict_interval(candidate, cost);
out:
	free(stages);
	return st;
}
