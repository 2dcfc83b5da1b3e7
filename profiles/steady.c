/* steady: see steady.h. Samples lie in the order in which they came; a step is the range up to its end. */
#include "profiles/steady.h"

#include "base/stats.h"
#include "profiles/table.h"

#include <math.h>
#include <stdlib.h>

struct sample {
	int entry; /* of the profile */
	float seconds;
};

struct mt_steady {
	struct mt_profile *profile;
	struct sample *samples; /* owned */
	size_t count, capacity;
	double *seconds; /* owned, of each step */
	size_t *ends;    /* owned: samples up to the end of each step */
	size_t steps, step_capacity;
	enum mt_status status; /* of collecting, which cannot fail by itself */
};

enum mt_status mt_steady_create(struct mt_steady **steady, struct mt_profile *profile)
{
	*steady = calloc(1, sizeof **steady);
	if (!*steady)
		return mt_fail(MT_NOMEM, "no memory for a run's kernel times");
	(*steady)->profile = profile;
	return MT_OK;
}

void mt_steady_destroy(struct mt_steady *steady)
{
	if (!steady)
		return;
	free(steady->samples);
	free(steady->seconds);
	free(steady->ends);
	free(steady);
}

static enum mt_status add(struct mt_steady *s, const struct mt_op_key *key, double seconds)
{
	int entry;

	MT_TRY(mt_profile_entry_of(s->profile, key, &entry));
	if (s->count == s->capacity) {
		size_t capacity = s->capacity ? 2 * s->capacity : 1024;
		struct sample *samples = realloc(s->samples, capacity * sizeof *samples);

		if (!samples)
			return mt_fail(MT_NOMEM, "no memory for %zu kernel times", capacity);
		s->samples = samples;
		s->capacity = capacity;
	}
	s->samples[s->count++] = (struct sample){entry, (float)seconds};
	return MT_OK;
}

void mt_steady_collect(void *context, const struct mt_trace_event *event)
{
	struct mt_steady *s = context;
	double seconds = event->end_s - event->start_s;

	if (event->key && isfinite(seconds) && seconds >= 0 && s->status == MT_OK)
		s->status = add(s, event->key, seconds);
}

enum mt_status mt_steady_step(struct mt_steady *s, double seconds)
{
	if (s->status != MT_OK)
		return s->status;
	if (s->steps == s->step_capacity) {
		size_t capacity = s->step_capacity ? 2 * s->step_capacity : 64;
		double *longer = realloc(s->seconds, capacity * sizeof *longer);
		size_t *ends;

		if (longer)
			s->seconds = longer;
		ends = longer ? realloc(s->ends, capacity * sizeof *ends) : NULL;
		if (!ends)
			return mt_fail(MT_NOMEM, "no memory for %zu step times", capacity);
		s->ends = ends;
		s->step_capacity = capacity;
	}
	s->seconds[s->steps] = seconds;
	s->ends[s->steps++] = s->count;
	return MT_OK;
}

enum mt_status mt_steady_settle(const struct mt_steady *s, int *steps, int *undisturbed)
{
	double shortest = mt_stats_quantile(s->seconds, s->steps, 0);

	*steps = (int)s->steps;
	*undisturbed = 0;
	for (size_t step = 0; step < s->steps; step++) {
		if (s->seconds[step] > (1 + MT_DISTURBED_FRAC) * shortest)
			continue;
		for (size_t i = step ? s->ends[step - 1] : 0; i < s->ends[step]; i++)
			MT_TRY(mt_profile_add_sample(s->profile, s->samples[i].entry, s->samples[i].seconds));
		(*undisturbed)++;
	}
	return MT_OK;
}
