#include "tuner/vee.h"

#include "tuner/pipeline.h"

#include <math.h>
#include <stdlib.h>

enum { GRID = 24, MORE = 8, MOST_MORE = 16, FIRST_SLOTS = 1024, CHUNKS = 2 };

/* Without memory for a replay; no step takes so long. */
static const double NEVER_S = 1e30;

struct corner {
	int stages;                 /* 0: free */
	int forward, weights, more; /* more: of the first stage, in steps of 1 / MORE */
	int64_t microbatches;
	double end_s; /* of passes that take 1 s together */
};

struct mt_vee {
	struct mt_schedules schedules;
	struct corner *corners; /* owned: open addressing */
	size_t slots, count;
};

struct mt_vee *mt_vee_create(void)
{
	struct mt_vee *vee = calloc(1, sizeof *vee);

	if (!vee)
		return NULL;
	vee->slots = FIRST_SLOTS;
	vee->corners = calloc(vee->slots, sizeof *vee->corners);
	if (!vee->corners) {
		free(vee);
		return NULL;
	}
	return vee;
}

void mt_vee_destroy(struct mt_vee *vee)
{
	if (!vee)
		return;
	mt_schedules_free(&vee->schedules);
	free(vee->corners);
	free(vee);
}

static struct corner *slot_of(struct corner *corners, size_t slots, const struct corner *key)
{
	uint64_t hash = ((uint64_t)key->stages * 1000003 + (uint64_t)key->microbatches) * 1000003 +
			(uint64_t)((key->forward * (GRID + 1) + key->weights) * (MOST_MORE + 1) + key->more);
	size_t at = (size_t)(hash * 0x9E3779B97F4A7C15u >> 20) & (slots - 1);

	while (corners[at].stages > 0 &&
	       (corners[at].stages != key->stages || corners[at].microbatches != key->microbatches ||
		corners[at].forward != key->forward || corners[at].weights != key->weights || corners[at].more != key->more))
		at = (at + 1) & (slots - 1);
	return &corners[at];
}

/* Twice the room; as it is where there is no memory. */
static void grow(struct mt_vee *vee)
{
	struct corner *more = calloc(2 * vee->slots, sizeof *more);

	if (!more)
		return;
	for (size_t i = 0; i < vee->slots; i++) {
		if (vee->corners[i].stages > 0)
			*slot_of(more, 2 * vee->slots, &vee->corners[i]) = vee->corners[i];
	}
	free(vee->corners);
	vee->corners = more;
	vee->slots *= 2;
}

static double replay(struct mt_schedules *schedules, const struct corner *at)
{
	const double part = 1.0 / (GRID * CHUNKS);
	const double more = 1 + (double)at->more / MORE;
	struct mt_pipeline_chunk chunks[CHUNKS], first[CHUNKS];
	struct mt_pipeline_stage *stages = calloc((size_t)at->stages, sizeof *stages);
	const struct mt_schedule_shape shape = {
		.kind = MT_SCHEDULE_ZB_V, .stages = at->stages, .chunks = CHUNKS, .microbatches = at->microbatches};
	double end_s = NEVER_S;

	for (int i = 0; i < CHUNKS; i++)
		chunks[i] = (struct mt_pipeline_chunk){.forward_s = part * at->forward,
						       .backward_s = part * (GRID - at->forward - at->weights),
						       .wgrad_s = part * at->weights};
	for (int i = 0; i < CHUNKS; i++)
		first[i] = (struct mt_pipeline_chunk){.forward_s = more * chunks[i].forward_s,
						      .backward_s = more * chunks[i].backward_s,
						      .wgrad_s = more * chunks[i].wgrad_s};
	for (int s = 0; stages && s < at->stages; s++)
		stages[s].chunks = s == 0 ? first : chunks;
	if (stages && mt_pipeline_time(stages, &shape, NULL, schedules) == MT_OK) {
		end_s = 0;
		for (int s = 0; s < at->stages; s++)
			end_s = fmax(end_s, stages[s].passes_end_s);
	}
	free(stages);
	return end_s;
}

static double corner_end_s(struct mt_vee *vee, struct corner at)
{
	struct corner *slot = slot_of(vee->corners, vee->slots, &at);

	if (slot->stages > 0)
		return slot->end_s;
	at.end_s = replay(&vee->schedules, &at);
	if (vee->count + 1 == vee->slots) /* no memory for more: one stays free */
		return at.end_s;
	*slot = at;
	if (++vee->count > vee->slots / 2)
		grow(vee);
	return at.end_s;
}

/* Of passes whose shares are x and y steps of the grid, between the three corners around. */
static double end_s(struct mt_vee *vee, struct corner at, double x, double y)
{
	int i = (int)fmin(floor(x), GRID - 1), k = (int)fmin(floor(y), GRID - 1 - i);
	double u = x - i, v = y - k, end;

	at.forward = i + 1;
	at.weights = k;
	end = (u + v <= 1 ? u : 1 - v) * corner_end_s(vee, at);
	at.forward = i;
	at.weights = k + 1;
	end += (u + v <= 1 ? v : 1 - u) * corner_end_s(vee, at);
	if (u + v <= 1)
		at.weights = k;
	else
		at.forward = i + 1;
	return end + fabs(1 - u - v) * corner_end_s(vee, at);
}

double mt_vee_wait_s(struct mt_vee *vee, int stages, int64_t microbatches, const struct mt_vee_passes *passes)
{
	struct mt_vee *own = vee ? NULL : mt_vee_create();
	double all_s = passes->forward_s + passes->inputs_s + passes->weights_s;
	double x = GRID * passes->forward_s / all_s, y = GRID * passes->weights_s / all_s;
	double more = fmin(passes->more, (double)MOST_MORE / MORE), z = MORE * more, end;
	struct corner at = {.stages = stages, .microbatches = microbatches};

	if (!vee && !own)
		return NEVER_S;
	at.more = (int)fmin(floor(z), MOST_MORE - 1);
	end = (1 - (z - at.more)) * end_s(vee ? vee : own, at, x, y);
	if (z > at.more) {
		double part = z - at.more++;

		end += part * end_s(vee ? vee : own, at, x, y);
	}
	mt_vee_destroy(own);
	return all_s * fmax(end - (double)microbatches * (1 + more), 0);
}
