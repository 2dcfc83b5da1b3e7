/* card_cache: see card_cache.h. */
#include "tuner/card_cache.h"

#include <stdlib.h>
#include <string.h>

/* Things of keyed tables begin with their key. */
struct card {
	struct mt_key key;
	struct mt_card card;
};

/* The tails of the stages of one grid of ranks. */
struct grid {
	struct mt_key key;
	struct mt_tail *own; /* owned array, with what its elements hold */
	int own_count;
	const struct mt_tail **tails; /* owned array, by stage: equal stages share one */
};

enum mt_status mt_card_cache_create(struct mt_card_cache **cache)
{
	*cache = calloc(1, sizeof **cache);
	return *cache ? MT_OK : mt_fail(MT_NOMEM, "no memory for cards");
}

static void free_card(void *thing)
{
	struct card *c = thing;

	mt_card_free(&c->card);
	free(c);
}

static void free_grid(void *thing)
{
	struct grid *g = thing;

	for (int i = 0; i < g->own_count; i++)
		mt_tail_free(&g->own[i]);
	free(g->own);
	free(g->tails);
	free(g);
}

static void free_footprints(void *thing)
{
	struct mt_footprints *f = thing;

	free(f->floors);
	free(f->exact);
	free(f);
}

void mt_card_cache_destroy(struct mt_card_cache *cache)
{
	if (!cache)
		return;
	mt_keyed_free(&cache->cards, free_card);
	mt_keyed_free(&cache->grids, free_grid);
	mt_keyed_free(&cache->footprints, free_footprints);
	mt_schedules_free(&cache->schedules);
	free(cache);
}

/* `recompute`: of all its layers. `puts_off`: of stages that have passes for gradients of weights. */
enum mt_status mt_cards_find(struct mt_card_cache *cache, const struct mt_run *run, int recompute, bool puts_off,
			     struct mt_cost_model *cost, const struct mt_card **card)
{
	const struct mt_layout *l = &run->layout;
	struct mt_run of = *run;
	int64_t kinds = l->recompute_attention + 2 * l->recompute_activation + 4 * l->recompute_norm;
	struct mt_key key = {.numbers = {l->tp, l->cp, l->cp_kind, l->cp_inner, l->documents, l->mbs, l->sp, recompute,
					 recompute == MT_RECOMPUTE_SELECTIVE ? kinds : 0, puts_off,
					 run->model.experts > 0 ? l->dp : 0, l->ep, l->etp}};
	struct card *found = mt_keyed_find(&cache->cards, &key);
	enum mt_status st;

	if (found) {
		*card = &found->card;
		return MT_OK;
	}
	found = calloc(1, sizeof *found);
	if (!found)
		return mt_fail(MT_NOMEM, "no memory for cards");
	found->key = key;
	of.layout.recompute = recompute;
	of.layout.schedule = puts_off ? l->schedule : MT_SCHEDULE_1F1B;
	st = mt_card_measure(&found->card, &of, mt_cost_ops(cost), mt_cost_comms(cost));
	if (st == MT_OK)
		st = mt_keyed_add(&cache->cards, found);
	if (st != MT_OK) {
		free_card(found);
		return st;
	}
	*card = &found->card;
	return MT_OK;
}

/* Stages without ends do the same where their chunks have the same layers, but in another order of passes. */
static bool alike(const struct mt_run *run, int a, int b)
{
	const struct mt_layout *l = &run->layout;
	enum mt_schedule kind = (enum mt_schedule)l->schedule;
	int parts = (int)(l->pp * l->vp);

	if (l->zero >= 2)
		return false;
	for (int chunk = 0; chunk < l->vp; chunk++) {
		int v = mt_schedule_virtual(kind, (int)l->pp, a, chunk), w = mt_schedule_virtual(kind, (int)l->pp, b, chunk);
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

static enum mt_status make_tails(struct grid *g, const struct mt_run *run, struct mt_cost_model *cost)
{
	int pp = (int)run->layout.pp;

	g->own = calloc((size_t)pp, sizeof *g->own);
	g->tails = calloc((size_t)pp, sizeof *g->tails);
	if (!g->own || !g->tails)
		return mt_fail(MT_NOMEM, "no memory for the cards of %d stages", pp);
	for (int s = 0; s < pp; s++) {
		for (int same = 0; same < s && !g->tails[s]; same++)
			g->tails[s] = alike(run, same, s) ? g->tails[same] : NULL;
		if (g->tails[s])
			continue;
		g->tails[s] = &g->own[g->own_count++];
		MT_TRY(mt_tail_measure(&g->own[g->own_count - 1], run, s, mt_cost_ops(cost), mt_cost_comms(cost)));
	}
	return MT_OK;
}

enum mt_status mt_tails_find(struct mt_card_cache *cache, const struct mt_run *run, struct mt_cost_model *cost,
			     const struct mt_tail *const **tails)
{
	const struct mt_layout *l = &run->layout;
	struct mt_schedule_shape shape = mt_layout_schedule(l);
	/* The order of passes decides how what is gathered and scattered lies in memory. */
	int64_t held =
		l->zero >= 2 ? mt_schedule_settled(&shape, MT_TAIL_MICROBATCHES).microbatches : mt_layout_microbatches(l) > 1;
	struct mt_key key = {.numbers = {l->tp, l->pp, l->vp, l->schedule, l->first_layers, l->last_layers, l->cp, l->dp, l->zero,
					 l->zero_group, l->sp, l->ep, l->etp, l->bucket_bytes, l->reduce_dtype, l->vp_group, held}};
	struct grid *found;
	enum mt_status st;

	memcpy(key.text, l->stage_layers, sizeof key.text);
	found = mt_keyed_find(&cache->grids, &key);
	if (found) {
		*tails = found->tails;
		return MT_OK;
	}
	found = calloc(1, sizeof *found);
	if (!found)
		return mt_fail(MT_NOMEM, "no memory for cards");
	found->key = key;
	st = make_tails(found, run, cost);
	if (st == MT_OK)
		st = mt_keyed_add(&cache->grids, found);
	if (st != MT_OK) {
		free_grid(found);
		return st;
	}
	*tails = found->tails;
	return MT_OK;
}

enum mt_status mt_footprints_find(struct mt_card_cache *cache, const struct mt_key *key, struct mt_footprints **footprints)
{
	struct mt_footprints *found = mt_keyed_find(&cache->footprints, key);
	enum mt_status st = MT_OK;

	if (!found) {
		found = calloc(1, sizeof *found);
		if (!found)
			return mt_fail(MT_NOMEM, "no memory for cards");
		found->key = *key;
		st = mt_keyed_add(&cache->footprints, found);
		if (st != MT_OK)
			free_footprints(found);
	}
	*footprints = found;
	return st;
}
