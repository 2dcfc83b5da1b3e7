/* rampup: a batch that grows with the samples seen, as GPT-3's did (Brown et al. 2020, arXiv:2005.14165, 2.3).
 *
 * From rampup_start to gbs in equal rises of rampup_increment, equally many samples each (Megatron-LM's rule). Only the number of
 * micro-batches changes, at the beginning of a step, and depends on the samples alone, so a run that goes on from a checkpoint at
 * another layout takes the same steps. What the engine keeps by micro-batch is made anew then: a few times in a run. */
#include "engine/internal.h"

#include <stdio.h>
#include <stdlib.h>

int64_t mt_rampup_gbs(const struct mt_run *run, int64_t samples)
{
	const struct mt_train_options *t = &run->train;
	int64_t rises, gbs = run->layout.gbs;

	if (t->rampup_start == 0 || samples >= t->rampup_samples)
		return gbs;
	rises = (gbs - t->rampup_start) / t->rampup_increment;
	/* samples * rises / rampup_samples, which may not fit */
	return t->rampup_start + (int64_t)((__int128)samples * rises / t->rampup_samples) * t->rampup_increment;
}

enum mt_status mt_rampup_check(const struct mt_run *run, const char *where)
{
	const struct mt_train_options *t = &run->train;
	struct mt_layout layout = run->layout;
	char place[256];

	if (t->rampup_start == 0)
		return t->rampup_increment == 0 && t->rampup_samples == 0
			       ? MT_OK
			       : mt_fail(MT_INPUT, "%s: rampup_increment and rampup_samples need rampup_start", where);
	if (t->rampup_increment < 1 || t->rampup_samples < 1)
		return mt_fail(MT_INPUT, "%s: rampup_start %lld needs rampup_increment and rampup_samples", where,
			       (long long)t->rampup_start);
	if (t->rampup_start >= layout.gbs || (layout.gbs - t->rampup_start) % t->rampup_increment != 0)
		return mt_fail(MT_INPUT, "%s: from rampup_start %lld no rises of rampup_increment %lld lead to gbs %lld", where,
			       (long long)t->rampup_start, (long long)t->rampup_increment, (long long)layout.gbs);
	for (layout.gbs = t->rampup_start; layout.gbs < run->layout.gbs; layout.gbs += t->rampup_increment) {
		snprintf(place, sizeof place, "%.200s: while the batch grows", where);
		MT_TRY(mt_layout_check(&run->model, &layout, place));
	}
	return MT_OK;
}

enum mt_status mt_batch_resize(struct mt_engine *e, int64_t gbs)
{
	if (gbs == e->gbs)
		return MT_OK;
	e->gbs = gbs;
	mt_flights_destroy(e);
	e->microbatches = gbs / (e->layout->dp * e->layout->mbs);
	MT_TRY(mt_flights_create(e));
	mt_loader_destroy(e->loader);
	e->loader = NULL;
	return mt_engine_open_loader(e, e->config.dataset, &e->loader);
}
