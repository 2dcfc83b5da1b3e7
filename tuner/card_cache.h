/* card_cache: cards, tails, footprints and schedules by what they depend on, for the layouts of a search to share. */
#ifndef MT_TUNER_CARD_CACHE_H
#define MT_TUNER_CARD_CACHE_H

#include "tuner/cost.h"
#include "tuner/footprint.h"
#include "tuner/keyed.h"
#include "tuner/schedules.h"

/* Of the stages of a pipeline; NULL: not found yet. */
struct mt_footprints {
	struct mt_key key;
	struct mt_footprint *floors, *exact; /* owned */
};

struct mt_card_cache {
	struct mt_keyed cards, grids, footprints;
	struct mt_schedules schedules;
};

/* `recompute`: of all its layers. `puts_off`: of stages that have passes for gradients of weights. */
enum mt_status mt_cards_find(struct mt_card_cache *cache, const struct mt_run *run, int recompute, bool puts_off,
			     struct mt_cost_model *cost, const struct mt_card **card);
/* By stage. */
enum mt_status mt_tails_find(struct mt_card_cache *cache, const struct mt_run *run, struct mt_cost_model *cost,
			     const struct mt_tail *const **tails);
/* Those under a key, new ones at first. */
enum mt_status mt_footprints_find(struct mt_card_cache *cache, const struct mt_key *key, struct mt_footprints **footprints);

#endif
