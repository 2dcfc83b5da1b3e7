#include "tuner/vee.h"

#include "tuner/keyed.h"
#include "tuner/pipeline.h"

#include <math.h>
#include <stdlib.h>

enum { GRID = 24, MORE = 8, MOST_MORE = 16, CHUNKS = 2 };

/* Without memory for a replay; no step takes so long. */
static const double NEVER_S = 1e30;

/* Where a replay is asked for. */
struct corner {
	int stages, forward, weights, more; /* shares of passes in steps of 1 / GRID; more: of the first stage, of 1 / MORE */
	int64_t microbatches;
};

struct replayed {
	struct mt_key key;
	double end_s; /* of passes that take 1 s together */
};

struct mt_vee {
	struct mt_schedules schedules;
	struct mt_keyed corners;
};

struct mt_vee *mt_vee_create(void)
{
	return calloc(1, sizeof(struct mt_vee));
}

void mt_vee_destroy(struct mt_vee *vee)
{
	if (!vee)
		return;
	mt_schedules_free(&vee->schedules);
	mt_keyed_free(&vee->corners, free);
	free(vee);
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
	const struct mt_key key = {.numbers = {at.stages, at.microbatches, at.forward, at.weights, at.more}};
	struct replayed *there = mt_keyed_find(&vee->corners, &key);
	double end_s;

	if (there)
		return there->end_s;
	end_s = replay(&vee->schedules, &at);
	there = calloc(1, sizeof *there);
	if (!there)
		return end_s;
	there->key = key;
	there->end_s = end_s;
	if (mt_keyed_add(&vee->corners, there) != MT_OK)
		free(there);
	return end_s;
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
