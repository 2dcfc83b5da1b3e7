/* op_rope: the frequencies of rotary positions, plain and stretched (kernels/op.h), for every device. */
#include "kernels/op.h"

#include <math.h>

#define TURN 6.28318530717958647693 /* radians */

static double llama3(const struct mt_rope_scaling *s, double frequency)
{
	double wavelength = TURN / frequency, part;

	if (wavelength < s->original / s->high)
		return frequency;
	if (wavelength > s->original / s->low)
		return frequency / s->factor;
	part = (s->original / wavelength - s->low) / (s->high - s->low);
	return (1 - part) * frequency / s->factor + part * frequency;
}

/* The pair that turns `turns` times over the original sequence, as a real number. */
static double pair_of_turns(const struct mt_rope *r, double turns)
{
	return (double)mt_rope_rotated(r) * log(r->scaling.original / (turns * TURN)) / (2 * log(r->theta));
}

static double yarn(const struct mt_rope *r, double frequency, int64_t pair)
{
	double first = floor(pair_of_turns(r, r->scaling.high)), last = ceil(pair_of_turns(r, r->scaling.low)), part;

	first = fmax(first, 0);
	last = fmin(last, (double)mt_rope_rotated(r) - 1);
	if (first == last)
		last += 0.001;
	part = fmin(fmax(((double)pair - first) / (last - first), 0), 1);
	return part * frequency / r->scaling.factor + (1 - part) * frequency;
}

double mt_rope_frequency(const struct mt_rope *rope, int64_t pair)
{
	double frequency = pow(rope->theta, -2.0 * (double)pair / (double)mt_rope_rotated(rope));

	switch (rope->scaling.stretch) {
	case MT_ROPE_LINEAR:
		return frequency / rope->scaling.factor;
	case MT_ROPE_LLAMA3:
		return llama3(&rope->scaling, frequency);
	case MT_ROPE_YARN:
		return yarn(rope, frequency, pair);
	case MT_ROPE_PLAIN:
		break;
	}
	return frequency;
}
