/* compose: a layout's step time and memory from cards.
 *
 *   pass       the sums of its blocks: layers of each kind, with and without recompute, embedding, head
 *   pipeline   when each stage's passes end, from the passes and the schedule itself (pipeline.c), with gathers, reductions and
 *              copies beside them (stage_clock.c)
 *   step       clear + pipeline + ends + norm, optimizer and gather; the last stage to end
 *   memory     what the blocks allocate and free, along the schedule's actions (footprint.c), and the tail's arenas
 *
 * What layouts share is kept (card_cache.h). */
#include "tuner/balance.h"
#include "tuner/card_cache.h"
#include "tuner/cost.h"
#include "tuner/memory.h"
#include "tuner/pipeline.h"

#include <stdlib.h>
#include <string.h>

/* Holes included, activations took 2.01 times what was live of them at most, in 8,000 random layouts (tests/test_tuner_cards.c). */
#define MOST_WITH_HOLES 2.25

/* A layout at work. */
struct composition {
	struct mt_run run; /* shallow */
	struct mt_cost_model *cost;
	struct mt_schedule_shape shape;
	/* of layers that recompute, and of those that do not; [1]: of stages that put gradients of weights off */
	const struct mt_card *card[2], *plain[2];
	const struct mt_tail *const *tails;
	struct mt_card_cache *cache;
	struct mt_pipeline_stage *stages;    /* owned */
	struct mt_pipeline_chunk *chunks;    /* owned: vp a stage */
	const struct mt_block_cost **blocks; /* owned: of all layers, by stage and chunk */
	double *copy_s;                      /* owned: as the blocks */
	double *tp_s;                        /* owned: of a micro-batch, by stage */
	double *edge_s;                      /* owned: messages, by stage */
};

static int virtual_stage(const struct mt_layout *l, int stage, int chunk)
{
	return mt_schedule_virtual((enum mt_schedule)l->schedule, (int)l->pp, stage, chunk);
}

static bool puts_off(const struct composition *k, int s)
{
	return mt_schedule_puts_off((enum mt_schedule)k->run.layout.schedule, s);
}

static const struct mt_card *card_of(const struct composition *k, int s)
{
	return k->card[puts_off(k, s)];
}

/* The blocks of a chunk, and their sums. `next`: the first place in the arrays of all layers. */
static void fill_chunk(struct composition *k, int s, int chunk, int64_t *local, int64_t *next)
{
	const struct mt_layout *l = &k->run.layout;
	struct mt_pipeline_chunk *c = &k->stages[s].chunks[chunk];
	const struct mt_card *card = card_of(k, s);
	int v = virtual_stage(l, s, chunk);
	int64_t first, count;

	mt_layout_stage_layers(&k->run.model, l, v, &first, &count);
	*c = (struct mt_pipeline_chunk){.first_layer = *local,
					.layers = count,
					.first = v == 0,
					.last = v == l->pp * l->vp - 1,
					.blocks = k->blocks + *next};
	c->load_s = (c->first + c->last) * mt_cost_transfer_s(k->cost, (size_t)card->token_bytes);
	c->forward_s = c->load_s;
	for (int64_t i = 0; i < count; i++) {
		bool again = mt_layout_recomputes(l, s, i);
		const struct mt_block_cost *b = &(again ? card : k->plain[puts_off(k, s)])->layer[mt_card_kind(&k->run, first + i)];

		k->blocks[*next] = b;
		k->copy_s[(*next)++] = mt_cost_transfer_s(k->cost, (size_t)b->forward_bytes);
		c->forward_s += b->forward_s;
		c->backward_s += b->backward_s;
		c->wgrad_s += b->wgrad_s;
		k->tp_s[s] += b->tp_s;
	}
	*local += count;
	if (c->first) {
		c->forward_s += card->embedding.forward_s;
		c->backward_s += card->embedding.backward_s;
		k->tp_s[s] += card->embedding.tp_s;
	}
	if (c->last) {
		c->forward_s += card->head.forward_s;
		c->backward_s += card->head.backward_s;
		k->tp_s[s] += card->head.tp_s;
	}
}

static enum mt_status fill(struct composition *k)
{
	const struct mt_layout *l = &k->run.layout;
	size_t pp = (size_t)l->pp, layers = (size_t)k->run.model.layers;
	int64_t next = 0;

	k->shape = mt_layout_schedule(l);
	k->stages = calloc(pp, sizeof *k->stages);
	k->chunks = calloc(pp * (size_t)l->vp, sizeof *k->chunks);
	k->blocks = calloc(layers + 1, sizeof(struct mt_block_cost *));
	k->copy_s = calloc(layers + 1, sizeof *k->copy_s);
	k->tp_s = calloc(pp, sizeof *k->tp_s);
	if (!k->stages || !k->chunks || !k->blocks || !k->copy_s || !k->tp_s)
		return mt_fail(MT_NOMEM, "no memory for %d stages", (int)l->pp);
	for (int s = 0; s < l->pp; s++) {
		int64_t local = 0;

		k->stages[s] = (struct mt_pipeline_stage){.start_s = k->tails[s]->clear_s,
							  .chunks = k->chunks + s * l->vp,
							  .embedding = &card_of(k, s)->embedding,
							  .head = &card_of(k, s)->head,
							  .tail = k->tails[s],
							  .offload_layers = l->offload_layers,
							  .copy_s = l->offload_layers > 0 ? k->copy_s + next : NULL};
		for (int chunk = 0; chunk < l->vp; chunk++)
			fill_chunk(k, s, chunk, &local, &next);
	}
	return MT_OK;
}

/* Seconds of a stage's own kernels in one step, collectives left out. */
static double own_s(const struct composition *k, int s)
{
	const struct mt_pipeline_stage *stage = &k->stages[s];
	double pass_s = -k->tp_s[s];

	for (int chunk = 0; chunk < k->run.layout.vp; chunk++)
		pass_s += stage->chunks[chunk].forward_s + stage->chunks[chunk].backward_s + stage->chunks[chunk].wgrad_s;
	return (double)k->shape.microbatches * pass_s + k->tails[s]->clear_s + stage->more_compute_s;
}

/* What the schedule hides is paid for in slower kernels, where these have every core; as in the dry run. */
static double stolen_s(const struct composition *k, int s)
{
	const struct mt_tail *t = k->tails[s];
	double hidden_s = k->stages[s].dp_total_s + t->dp_total_s - k->stages[s].dp_wait_s - t->gather_s;

	return k->cost->overlap_steals && hidden_s > 0 ? hidden_s : 0;
}

/* The split is that of the stage whose own work is most: it sets the pace. */
static void sum_up(struct mt_candidate *c, const struct composition *k)
{
	double m = (double)k->shape.microbatches, most = -1, bubble;
	int pace = 0;

	c->step_s = 0;
	for (int s = 0; s < c->layout.pp; s++) {
		double end_s = k->stages[s].end_s + k->tails[s]->ends_s + k->tails[s]->update_s + stolen_s(k, s);
		double own = own_s(k, s) + stolen_s(k, s);

		c->step_s = end_s > c->step_s ? end_s : c->step_s;
		if (own > most) {
			most = own;
			pace = s;
		}
	}
	c->compute_s = most;
	c->tp_s = m * k->tp_s[pace] + k->stages[pace].tp_sum_s;
	c->dp_s = k->stages[pace].dp_wait_s + k->tails[pace]->gather_s;
	c->optimizer_s = k->tails[pace]->update_s - k->tails[pace]->gather_s;
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

/* The memory of a stage whose activations take so much. */
static void stage_memory(struct mt_stage_prediction *out, const struct composition *k, int s, const struct mt_footprint *f)
{
	const struct mt_layout *l = &k->run.layout;
	const struct mt_tail *t = k->tails[s];
	const struct mt_card *card = card_of(k, s);
	int64_t loss_bytes =
		(1 + k->run.model.mtp) * k->shape.microbatches * l->mbs * (l->seq / l->cp) * (l->dtype == MT_F64 ? 8 : 4);

	out->arena_bytes[0] = t->parameter_bytes;
	out->arena_bytes[1] = t->gradient_bytes;
	out->arena_bytes[2] = t->optimizer_bytes;
	out->arena_bytes[3] = f->activation_bytes;
	out->arena_bytes[4] = t->workspace_bytes + round_up(card->position_bytes, MT_ARENA_ALIGN_BYTES);
	if (s == mt_layout_head_stage(l))
		out->arena_bytes[4] += round_up(loss_bytes, MT_ARENA_ALIGN_BYTES) + f->logits_bytes;
	out->host_bytes = f->host_bytes;
	/* Of the first and the last stage's operations too, on all. */
	out->scratch_bytes = card->scratch_bytes > t->scratch_bytes ? card->scratch_bytes : t->scratch_bytes;
	out->pinned_bytes = card->pinned_bytes;
	mt_stage_sum(out, k->cost->machine);
}

/* What the activations of a layout depend on. */
static struct mt_key footprints_key(const struct composition *k)
{
	const struct mt_layout *l = &k->run.layout;
	struct mt_key key = {.numbers = {(int64_t)(intptr_t)k->card[0], (int64_t)(intptr_t)k->card[1],
					 (int64_t)(intptr_t)k->plain[0], (int64_t)(intptr_t)k->plain[1], l->pp, l->vp, l->schedule,
					 l->vp_group, k->shape.microbatches, l->first_layers, l->last_layers, l->recompute_layers,
					 l->recompute_stages, l->offload_layers, mt_logits_apart(l)}};

	memcpy(key.text, l->stage_layers, sizeof key.text);
	return key;
}

/* By stage: to the byte, or without holes. */
static enum mt_status find_footprints(const struct composition *k, bool exact, const struct mt_footprint **found)
{
	struct mt_footprint_query query = {.shape = &k->shape, .apart = mt_logits_apart(&k->run.layout)};
	const struct mt_key key = footprints_key(k);
	struct mt_schedule_pair pair;
	struct mt_footprints *kept;
	struct mt_footprint *made;
	enum mt_status st = MT_OK;

	MT_TRY(mt_footprints_find(k->cache, &key, &kept));
	*found = exact ? kept->exact : kept->floors;
	if (*found)
		return MT_OK;
	if (exact)
		MT_TRY(mt_schedules_find(&k->cache->schedules, &k->shape, &pair.lists[0]));
	else
		MT_TRY(mt_schedules_pair(&k->cache->schedules, &k->shape, &pair));
	made = calloc((size_t)k->shape.stages + 1, sizeof *made);
	if (!made)
		return mt_fail(MT_NOMEM, "no memory for %d stages", k->shape.stages);
	for (query.index = 0; query.index < k->shape.stages && st == MT_OK; query.index++) {
		struct mt_footprint *f = &made[query.index];

		query.stage = &k->stages[query.index];
		query.card = card_of(k, query.index);
		st = (exact ? mt_footprint_find : mt_footprint_floor)(f, &query, &pair.lists[0][query.index]);
	}
	if (st != MT_OK) {
		free(made);
		return st;
	}
	*found = made;
	*(exact ? &kept->exact : &kept->floors) = made;
	return MT_OK;
}

static enum mt_status count_memory(struct mt_candidate *c, const struct composition *k)
{
	const struct mt_footprint *f;

	MT_TRY(find_footprints(k, true, &f));
	c->stage = calloc((size_t)c->stages, sizeof *c->stage);
	if (!c->stage)
		return mt_fail(MT_NOMEM, "no memory for %d stages", c->stages);
	for (int s = 0; s < c->stages; s++)
		stage_memory(&c->stage[s], k, s, &f[s]);
	return MT_OK;
}

static enum mt_status find_room(enum mt_room *room, const struct composition *k, int64_t limit_bytes, int64_t device_limit_bytes)
{
	const struct mt_footprint *floors;

	*room = MT_ROOM_PLENTY;
	MT_TRY(find_footprints(k, false, &floors));
	for (int s = 0; s < k->shape.stages; s++) {
		struct mt_footprint most = floors[s];
		struct mt_stage_prediction stage;

		stage_memory(&stage, k, s, &floors[s]);
		if (!mt_stage_fits(&stage, limit_bytes, device_limit_bytes)) {
			*room = MT_ROOM_LACKS;
			return MT_OK;
		}
		most.activation_bytes = (int64_t)(MOST_WITH_HOLES * (double)floors[s].activation_bytes);
		most.logits_bytes = (int64_t)(MOST_WITH_HOLES * (double)floors[s].logits_bytes);
		most.host_bytes = (int64_t)(MOST_WITH_HOLES * (double)floors[s].host_bytes);
		stage_memory(&stage, k, s, &most);
		if (!mt_stage_fits(&stage, limit_bytes, device_limit_bytes))
			*room = MT_ROOM_UNSURE;
	}
	return MT_OK;
}

/* Messages between each stage and the next, as pipeline.h has them. */
static enum mt_status fill_edges(struct composition *k)
{
	const struct mt_layout *l = &k->run.layout;
	struct mt_comm_key key = {.op = MT_COMM_SEND_RECV,
				  .dtype = (enum mt_dtype)l->dtype,
				  .bytes = card_of(k, 0)->edge_bytes,
				  .size = (int)l->pp,
				  .stride = (int)(l->tp * l->cp * l->dp),
				  .group = "pp"};

	k->edge_s = calloc((size_t)l->pp, sizeof *k->edge_s);
	if (!k->edge_s)
		return mt_fail(MT_NOMEM, "no memory for %d stages", (int)l->pp);
	for (int s = 0; s < l->pp && l->pp > 1; s++) {
		key.from = s;
		key.to = (s + 1) % (int)l->pp;
		k->edge_s[s] = mt_machine_comm_s(k->cost->machine, &key, NULL);
	}
	return MT_OK;
}

static enum mt_status find_cards(struct composition *k, bool later)
{
	const struct mt_layout *l = &k->run.layout;

	MT_TRY(mt_cards_find(k->cache, &k->run, l->recompute, later, k->cost, &k->card[later]));
	k->plain[later] = k->card[later];
	if (l->recompute_layers > 0 || l->recompute_stages > 0)
		MT_TRY(mt_cards_find(k->cache, &k->run, MT_RECOMPUTE_NONE, later, k->cost, &k->plain[later]));
	return MT_OK;
}

/* A candidate's layout at work; close it after a failure too. */
static enum mt_status open_composition(struct composition *k, const struct mt_candidate *candidate, const struct mt_model *model,
				       struct mt_cost_model *cost, struct mt_card_cache *cache)
{
	const struct mt_layout *l = &candidate->layout;

	*k = (struct composition){
		.run = {.model = *model, .layout = *l, .train = mt_cost_train(cost)}, .cost = cost, .cache = cache};
	MT_TRY(find_cards(k, puts_off(k, 0)));
	MT_TRY(find_cards(k, puts_off(k, (int)l->pp - 1)));
	MT_TRY(mt_tails_find(cache, &k->run, cost, &k->tails));
	return fill(k);
}

static void close_composition(struct composition *k)
{
	free(k->stages);
	free(k->chunks);
	free(k->blocks);
	free(k->copy_s);
	free(k->tp_s);
	free(k->edge_s);
}

static enum mt_status time_step(struct mt_candidate *c, struct composition *k)
{
	MT_TRY(fill_edges(k));
	MT_TRY(mt_pipeline_time(k->stages, &k->shape, k->edge_s, &k->cache->schedules));
	sum_up(c, k);
	c->fidelity = MT_FIDELITY_CARD;
	mt_predict_interval(c, k->cost);
	return MT_OK;
}

static double block_s(const struct mt_block_cost *b)
{
	return b->forward_s + b->backward_s + b->wgrad_s;
}

enum mt_status mt_predict_balanced(struct mt_layout *layout, const struct mt_model *model, struct mt_cost_model *cost,
				   struct mt_card_cache *cache)
{
	struct mt_run run = {.model = *model, .layout = *layout, .train = mt_cost_train(cost)};
	struct mt_balance_work work = {.layers = model->layers, .parts = layout->pp * layout->vp};
	double *layer_s = calloc((size_t)work.layers + 1, sizeof *layer_s);
	int64_t *counts = calloc((size_t)work.parts, sizeof *counts);
	const struct mt_card *card;
	enum mt_status st;

	if (!layer_s || !counts)
		MT_GOTO(out, mt_fail(MT_NOMEM, "no memory to cut %lld layers", (long long)work.layers));
	MT_GOTO(out,
		mt_cards_find(cache, &run, layout->recompute, mt_schedule_splits((enum mt_schedule)layout->schedule), cost, &card));
	for (int64_t i = 0; i < work.layers; i++)
		layer_s[i] = block_s(&card->layer[mt_card_kind(&run, i)]);
	work.layer_s = layer_s;
	work.first_s = block_s(&card->embedding);
	work.last_s = block_s(&card->head);
	MT_GOTO(out, mt_balance(&work, counts));
	memset(layout->stage_layers, 0, sizeof layout->stage_layers);
	layout->first_layers = layout->last_layers = 0;
	mt_layout_list(layout, counts, work.parts);
out:
	free(layer_s);
	free(counts);
	return st;
}

/* Nothing is known of the memory of its stages. */
static void forget(struct mt_candidate *c)
{
	free(c->stage);
	c->stage = NULL;
	c->stages = (int)c->layout.pp;
	c->room = MT_ROOM_UNSURE;
}

enum mt_status mt_predict_card_time(struct mt_candidate *candidate, const struct mt_model *model, struct mt_cost_model *cost,
				    struct mt_card_cache *cache, int64_t limit_bytes, int64_t device_limit_bytes)
{
	struct composition k;
	enum mt_status st;

	forget(candidate);
	MT_GOTO(out, open_composition(&k, candidate, model, cost, cache));
	MT_GOTO(out, find_room(&candidate->room, &k, limit_bytes, device_limit_bytes));
	if (candidate->room != MT_ROOM_LACKS)
		st = time_step(candidate, &k);
out:
	close_composition(&k);
	return st;
}

enum mt_status mt_predict_card_memory(struct mt_candidate *candidate, const struct mt_model *model, struct mt_cost_model *cost,
				      struct mt_card_cache *cache)
{
	struct composition k;
	enum mt_status st;

	forget(candidate);
	MT_GOTO(out, open_composition(&k, candidate, model, cost, cache));
	st = count_memory(candidate, &k);
out:
	close_composition(&k);
	return st;
}

enum mt_status mt_predict_card(struct mt_candidate *candidate, const struct mt_model *model, struct mt_cost_model *cost,
			       struct mt_card_cache *cache)
{
	struct composition k;
	enum mt_status st;

	forget(candidate);
	MT_GOTO(out, open_composition(&k, candidate, model, cost, cache));
	MT_GOTO(out, time_step(candidate, &k));
	st = count_memory(candidate, &k);
out:
	close_composition(&k);
	return st;
}
