/* compose: a layout's step time and memory from cards.
 *
 *   pass       the sums of its blocks: layers of each kind, with and without recompute, embedding, head
 *   pipeline   when each stage's passes end, from the passes and the schedule itself (pipeline.c), with gathers, reductions and
 *              copies beside them (stage_clock.c)
 *   step       clear + pipeline + ends + norm, optimizer and gather; the last stage to end
 *   memory     what the blocks allocate and free, along the schedule's actions (footprint.c), and the tail's arenas */
#include "tuner/balance.h"
#include "tuner/cost.h"
#include "tuner/memory.h"
#include "tuner/footprint.h"
#include "tuner/pipeline.h"

#include <stdlib.h>
#include <string.h>

enum { KEY = 20 };

/* Cards by what they depend on. */
struct entry {
	int64_t key[KEY];
	struct mt_card card;
};

/* The tails of the stages of one grid of ranks. */
struct grid {
	int64_t key[KEY], pp;
	char stage_layers[MT_OPTION_TEXT_BYTES]; /* of the key too */
	struct mt_tail **tails;                  /* owned array of pp; in the cache's list: equal stages share one */
};

struct mt_card_cache {
	struct entry **entries; /* owned, as what they point to */
	int count, capacity;
	struct grid *grids; /* owned */
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
	for (int i = 0; i < cache->count; i++) {
		mt_card_free(&cache->entries[i]->card);
		free(cache->entries[i]);
	}
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

/* `recompute`: of all its layers. `puts_off`: of stages that have passes for gradients of weights. */
static enum mt_status find_card(struct mt_card_cache *cache, const struct mt_run *run, int recompute, bool puts_off,
				struct mt_cost_model *cost, const struct mt_card **card)
{
	const struct mt_layout *l = &run->layout;
	struct mt_run of = *run;
	int64_t kinds = l->recompute_attention + 2 * l->recompute_activation + 4 * l->recompute_norm;
	int64_t key[KEY] = {l->tp,
			    l->cp,
			    l->cp_kind,
			    l->cp_inner,
			    l->documents,
			    l->mbs,
			    l->sp,
			    recompute,
			    recompute == MT_RECOMPUTE_SELECTIVE ? kinds : 0,
			    puts_off,
			    run->model.experts > 0 ? l->dp : 0,
			    l->ep,
			    l->etp};
	struct entry *e;

	for (int i = 0; i < cache->count; i++) {
		if (memcmp(cache->entries[i]->key, key, sizeof key) == 0) {
			*card = &cache->entries[i]->card;
			return MT_OK;
		}
	}
	MT_TRY(reserve(&cache->entries, cache->count, &cache->capacity, sizeof(struct entry *)));
	e = calloc(1, sizeof *e);
	if (!e)
		return mt_fail(MT_NOMEM, "no memory for cards");
	cache->entries[cache->count++] = e;
	of.layout.recompute = recompute;
	of.layout.schedule = puts_off ? l->schedule : MT_SCHEDULE_1F1B;
	MT_TRY(mt_card_measure(&e->card, &of, mt_cost_ops(cost), mt_cost_comms(cost)));
	memcpy(e->key, key, sizeof key);
	*card = &e->card;
	return MT_OK;
}

static int virtual_stage(const struct mt_layout *l, int stage, int chunk)
{
	return mt_schedule_virtual((enum mt_schedule)l->schedule, (int)l->pp, stage, chunk);
}

/* Stages without ends do the same where their chunks have the same layers, but in another order of passes. */
static bool alike(const struct mt_run *run, int a, int b)
{
	const struct mt_layout *l = &run->layout;
	int parts = (int)(l->pp * l->vp);

	if (l->zero >= 2)
		return false;

	for (int chunk = 0; chunk < l->vp; chunk++) {
		int v = virtual_stage(l, a, chunk), w = virtual_stage(l, b, chunk);
		int64_t first, count, other, others;

		mt_layout_stage_layers(&run->model, l, v, &first, &count);
		mt_layout_stage_layers(&run->model, l, w, &other, &others);
		if (v == 0 || w == 0 || v == parts - 1 || w == parts - 1 || count != others)
			return false;
		for (int64_t i = 0; i < count; i++) {
			if (mt_card_kind(run, first + i) != mt_card_kind(run, other + i))
				return false;
		}
	}
	return true;
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
	struct mt_schedule_shape shape = mt_layout_schedule(l);
	/* The order of passes decides how what is gathered and scattered lies in memory. */
	int64_t held =
		l->zero >= 2 ? mt_schedule_settled(&shape, MT_TAIL_MICROBATCHES).microbatches : mt_layout_microbatches(l) > 1;
	int64_t key[KEY] = {l->tp,         l->pp, l->vp, l->schedule, l->first_layers, l->last_layers,  l->cp,       l->dp, l->zero,
			    l->zero_group, l->sp, l->ep, l->etp,      l->bucket_bytes, l->reduce_dtype, l->vp_group, held};
	struct grid *g;

	for (int i = 0; i < cache->grid_count; i++) {
		g = &cache->grids[i];
		if (memcmp(g->key, key, sizeof key) == 0 && strcmp(g->stage_layers, l->stage_layers) == 0) {
			*tails = g->tails;
			return MT_OK;
		}
	}
	MT_TRY(reserve(&cache->grids, cache->grid_count, &cache->grid_capacity, sizeof *cache->grids));
	g = &cache->grids[cache->grid_count];
	*g = (struct grid){.pp = l->pp};
	memcpy(g->key, key, sizeof key);
	memcpy(g->stage_layers, l->stage_layers, sizeof g->stage_layers);
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

/* A layout at work. */
struct composition {
	struct mt_run run; /* shallow */
	struct mt_cost_model *cost;
	struct mt_schedule_shape shape;
	/* of layers that recompute, and of those that do not; [1]: of stages that put gradients of weights off */
	const struct mt_card *card[2], *plain[2];
	struct mt_tail *const *tails;
	struct mt_pipeline_stage *stages;    /* owned */
	struct mt_pipeline_chunk *chunks;    /* owned: vp a stage */
	const struct mt_block_cost **blocks; /* owned: of all layers, by stage and chunk */
	double *copy_s;                      /* owned: as the blocks */
	double *tp_s;                        /* owned: of a micro-batch, by stage */
	double *edge_s;                      /* owned: messages, by stage */
};

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

static enum mt_status stage_memory(struct mt_stage_prediction *out, const struct composition *k, int s)
{
	const struct mt_layout *l = &k->run.layout;
	const struct mt_tail *t = k->tails[s];
	const struct mt_card *card = card_of(k, s);
	struct mt_footprint f;
	int64_t loss_bytes =
		(1 + k->run.model.mtp) * k->shape.microbatches * l->mbs * (l->seq / l->cp) * (l->dtype == MT_F64 ? 8 : 4);

	MT_TRY(mt_footprint_find(&f, &k->stages[s], card, &k->shape, s, mt_logits_apart(l)));
	out->arena_bytes[0] = t->parameter_bytes;
	out->arena_bytes[1] = t->gradient_bytes;
	out->arena_bytes[2] = t->optimizer_bytes;
	out->arena_bytes[3] = f.activation_bytes;
	out->arena_bytes[4] = t->workspace_bytes + round_up(card->position_bytes, MT_ARENA_ALIGN_BYTES);
	if (s == mt_layout_head_stage(l))
		out->arena_bytes[4] += round_up(loss_bytes, MT_ARENA_ALIGN_BYTES) + f.logits_bytes;
	out->host_bytes = f.host_bytes;
	/* Of the first and the last stage's operations too, on all. */
	out->scratch_bytes = card->scratch_bytes > t->scratch_bytes ? card->scratch_bytes : t->scratch_bytes;
	out->pinned_bytes = card->pinned_bytes;
	mt_stage_sum(out, k->cost->machine);
	return MT_OK;
}

/* Messages between each stage and the next, as pipeline.h has them. */
static enum mt_status fill_edges(struct composition *k, const struct mt_card *card)
{
	const struct mt_layout *l = &k->run.layout;
	struct mt_comm_key key = {.op = MT_COMM_SEND_RECV,
				  .dtype = (enum mt_dtype)l->dtype,
				  .bytes = card->edge_bytes,
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

static enum mt_status find_cards(struct mt_card_cache *cache, struct composition *k, bool later)
{
	const struct mt_layout *l = &k->run.layout;

	MT_TRY(find_card(cache, &k->run, l->recompute, later, k->cost, &k->card[later]));
	k->plain[later] = k->card[later];
	if (l->recompute_layers > 0 || l->recompute_stages > 0)
		MT_TRY(find_card(cache, &k->run, MT_RECOMPUTE_NONE, later, k->cost, &k->plain[later]));
	return MT_OK;
}

static enum mt_status compose(struct mt_candidate *candidate, struct composition *k, struct mt_card_cache *cache)
{
	const struct mt_layout *l = &candidate->layout;

	MT_TRY(find_cards(cache, k, puts_off(k, 0)));
	MT_TRY(find_cards(cache, k, puts_off(k, (int)l->pp - 1)));
	MT_TRY(find_grid(cache, &k->run, k->cost, &k->tails));
	MT_TRY(fill(k));
	MT_TRY(fill_edges(k, card_of(k, 0)));
	MT_TRY(mt_pipeline_time(k->stages, &k->shape, k->edge_s));
	for (int s = 0; s < l->pp; s++)
		MT_TRY(stage_memory(&candidate->stage[s], k, s));
	sum_up(candidate, k);
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
		find_card(cache, &run, layout->recompute, mt_schedule_splits((enum mt_schedule)layout->schedule), cost, &card));
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

enum mt_status mt_predict_card(struct mt_candidate *candidate, const struct mt_model *model, struct mt_cost_model *cost,
			       struct mt_card_cache *cache)
{
	struct composition k = {.run = {.model = *model, .layout = candidate->layout, .train = mt_cost_train(cost)}, .cost = cost};
	enum mt_status st;

	free(candidate->stage);
	candidate->stages = (int)candidate->layout.pp;
	candidate->stage = calloc((size_t)candidate->layout.pp, sizeof *candidate->stage);
	if (!candidate->stage)
		return mt_fail(MT_NOMEM, "no memory for %d stages", candidate->stages);
	st = compose(candidate, &k, cache);
	free(k.stages);
	free(k.chunks);
	free(k.blocks);
	free(k.copy_s);
	free(k.tp_s);
	free(k.edge_s);
	MT_TRY(st);
	candidate->fidelity = MT_FIDELITY_CARD;
	mt_predict_interval(candidate, cost);
	return MT_OK;
}
