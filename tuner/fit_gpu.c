/* fit_gpu: see fit_gpu.h. */
#include "tuner/fit_gpu.h"

#include "base/log.h"
#include "base/units.h"
#include "tuner/cost.h"
#include "tuner/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NEWEST_ARCH 90 /* of a GPU that does not say: it has the larger workspace */

enum { MOST_DRY = 16 };

/* Costs do not matter: only memory is read. */
struct fit {
	const struct mt_run *run;
	struct mt_machine machine;
	struct mt_machine_host host;
	int *rank_host; /* owned: of every rank, 0 */
	struct mt_machine_gpu gpu;
	struct mt_machine_pair_class class;
	struct mt_cost_model cost;
	int64_t usable_bytes;
};

static enum mt_status open_fit(struct fit *f, const struct mt_run *run, const struct mt_device *device, int sharing)
{
	struct mt_profile_rates rates = {.bytes_per_s = 1e12};

	memset(f, 0, sizeof *f);
	for (int i = 0; i < MT_DTYPE_COUNT; i++)
		rates.flops_per_s[i] = 1e14;
	if (sscanf(device->info.isa, "sm_%d", &f->gpu.arch) != 1)
		f->gpu.arch = NEWEST_ARCH;
	f->rank_host = calloc((size_t)mt_layout_world(&run->layout), sizeof *f->rank_host);
	if (!f->rank_host)
		return mt_fail(MT_NOMEM, "no memory for %lld ranks", (long long)mt_layout_world(&run->layout));
	f->run = run;
	f->gpu.memory_bytes = (int64_t)device->info.memory_bytes;
	f->host.ranks = sharing;
	f->class = (struct mt_machine_pair_class){.latency_us = 1, .bandwidth_gbps = 100};
	f->machine = (struct mt_machine){.world = (int)mt_layout_world(&run->layout),
					 .host_count = 1,
					 .hosts = &f->host,
					 .rank_host = f->rank_host,
					 .gpu_count = 1,
					 .gpus = &f->gpu,
					 .class_count = 1,
					 .classes = &f->class};
	snprintf(f->machine.device, sizeof f->machine.device, "cuda");
	f->usable_bytes = mt_machine_device_bytes(&f->machine);
	f->cost = (struct mt_cost_model){.machine = &f->machine, .ranks_per_host = 1, .threads = 1, .train = &run->train};
	return mt_profile_create(&f->cost.profile, 1, 1, &rates);
}

static int fullest_stage(const struct mt_candidate *c)
{
	int fullest = 0;

	for (int s = 1; s < c->stages; s++)
		if (c->stage[s].device_bytes > c->stage[fullest].device_bytes)
			fullest = s;
	return fullest;
}

static int64_t need_of(const struct mt_candidate *c)
{
	return c->stage[fullest_stage(c)].device_bytes;
}

/* How far a layout is from the run's: moving the model over ranks is further than what a micro-batch holds or keeps. */
static double distance(const struct mt_layout *a, const struct mt_layout *b)
{
	return 4 * fabs(log2((double)a->tp / (double)b->tp)) + 4 * fabs(log2((double)a->pp / (double)b->pp)) +
	       2 * fabs(log2((double)a->mbs / (double)b->mbs)) + abs((int)(a->recompute - b->recompute)) +
	       abs((int)(a->zero - b->zero)) + (a->sp != b->sp) + 1e-9 * (double)labs((long)(a->mbs - b->mbs));
}

/* The nearest candidate that is left by cards; NULL: none. */
static struct mt_candidate *nearest_of(const struct fit *f, struct mt_space *space)
{
	struct mt_candidate *nearest = NULL;

	for (int i = 0; i < space->count; i++) {
		struct mt_candidate *c = &space->candidates[i];

		if (!c->failed && (!nearest || distance(&c->layout, &f->run->layout) < distance(&nearest->layout, &f->run->layout)))
			nearest = c;
	}
	return nearest;
}

static enum mt_status predict_all(struct fit *f, struct mt_space *space)
{
	struct mt_card_cache *cache = NULL;
	enum mt_status st;

	MT_TRY(mt_space_enumerate(space, &f->run->model, &f->run->layout, f->machine.world, NULL, 0, NULL));
	MT_TRY(mt_card_cache_create(&cache));
	for (int i = 0; i < space->count; i++)
		MT_GOTO(out, mt_predict_card(&space->candidates[i], &f->run->model, &f->cost, cache));
	st = MT_OK;
out:
	mt_card_cache_destroy(cache);
	return st;
}

/* Cards choose, the dry run decides. *found: its name, "": none. */
static enum mt_status find_nearest(struct fit *f, char found[96])
{
	struct mt_space space = {0};
	struct mt_candidate *c;
	enum mt_status st;

	found[0] = '\0';
	MT_GOTO(out, predict_all(f, &space));
	mt_space_drop_large(&space, 0, f->usable_bytes);
	for (int i = 0; i < MOST_DRY && (c = nearest_of(f, &space)); i++) {
		MT_GOTO(out, mt_predict_dry(c, &f->run->model, &f->cost, NULL));
		if (need_of(c) <= f->usable_bytes) {
			mt_layout_text(&c->layout, found);
			break;
		}
		c->failed = true;
	}
out:
	mt_space_free(&space);
	return st;
}

static void describe(const struct fit *f, const struct mt_candidate *c, const char *nearest, char text[600])
{
	static const char *const names[MT_ENGINE_ARENAS] = {"parameters", "gradients", "optimizer", "activations", "workspace"};
	const struct mt_stage_prediction *stage = &c->stage[fullest_stage(c)];
	char layout[96], all[MT_UNITS_TEXT], part[MT_UNITS_TEXT], scratch[MT_UNITS_TEXT], has[MT_UNITS_TEXT], use[MT_UNITS_TEXT];
	int largest = 0;

	for (int i = 1; i < MT_ENGINE_ARENAS; i++)
		if (stage->arena_bytes[i] > stage->arena_bytes[largest])
			largest = i;
	mt_layout_text(&c->layout, layout);
	snprintf(text, 600,
		 "the layout %s needs %s of GPU memory at stage %d (%s %s, scratch up to %s); a rank has %s, of which about %s are "
		 "for "
		 "that%s%s",
		 layout, mt_units_bytes(all, (double)stage->device_bytes), fullest_stage(c), names[largest],
		 mt_units_bytes(part, (double)stage->arena_bytes[largest]), mt_units_bytes(scratch, (double)stage->scratch_bytes),
		 mt_units_bytes(has, (double)(f->gpu.memory_bytes / f->host.ranks)), mt_units_bytes(use, (double)f->usable_bytes),
		 nearest[0] ? "; the nearest layout that fits: "
			    : "; no layout of so many ranks fits: use more, or a smaller model",
		 nearest);
}

static enum mt_status judge(struct fit *f, const struct mt_candidate *c)
{
	const struct mt_stage_prediction *stage = &c->stage[fullest_stage(c)];
	char nearest[96], text[600];

	if (stage->device_bytes <= f->usable_bytes)
		return MT_OK;
	MT_TRY(find_nearest(f, nearest));
	describe(f, c, nearest, text);
	if (stage->device_bytes - stage->scratch_bytes > f->gpu.memory_bytes / f->host.ranks)
		return mt_fail(MT_INPUT, "%s", text);
	mt_warn("%s", text);
	return MT_OK;
}

enum mt_status mt_gpu_fit_check(const struct mt_run *run, const struct mt_device *device, int sharing)
{
	struct mt_candidate candidate = {.layout = run->layout};
	struct fit f;
	enum mt_status st;

	if (strcmp(device->info.kind, "cuda") != 0)
		return MT_OK;
	MT_GOTO(out, open_fit(&f, run, device, sharing > 0 ? sharing : 1));
	MT_GOTO(out, mt_predict_dry(&candidate, &run->model, &f.cost, NULL));
	st = judge(&f, &candidate);
out:
	free(candidate.stage);
	mt_profile_destroy(f.cost.profile);
	free(f.rank_host);
	return st;
}
