/* loss_scale: training in f16 multiplies the loss by a scale, so that small gradients are not rounded to zero (Micikevicius et al.
 * 2018, arXiv:1710.03740). The scale is found while training: it doubles after so many good steps, and falls when a gradient
 * overflows, which makes the square sum of all gradients not finite; that sum is one number that all ranks of all groups have, so
 * they agree without being asked. Nothing is unscaled in memory: the norm is divided on the host, and the optimizer's factor of
 * the gradient holds 1/scale beside the clipping.
 *
 * A step that overflowed changes no parameter and does not count as one of the optimizer's. With `hysteresis` 2 one overflow
 * after a growth is forgiven, the next ones lower the scale (as Megatron-LM has it). */
#include "engine/loss_scale.h"

#include "base/json.h"

#include <math.h>

static const double MOST = 0x1p60; /* where nothing overflows: gradients are zeros */

void mt_loss_scale_open(struct mt_loss_scale *scale, const struct mt_train_options *train, enum mt_dtype dtype)
{
	bool scales = dtype == MT_F16;

	*scale = (struct mt_loss_scale){.train = train,
					.active = scales,
					.dynamic = scales && train->loss_scale == 0,
					.hysteresis = train->loss_scale_hysteresis,
					.value = 1};
	if (scales)
		scale->value = scale->dynamic ? train->loss_scale_initial : train->loss_scale;
	scale->of_gradients = scale->value;
}

static void grow(struct mt_loss_scale *s)
{
	if (++s->good_steps < s->train->loss_scale_window)
		return;
	s->good_steps = 0;
	s->hysteresis = s->train->loss_scale_hysteresis;
	s->value = fmin(s->value * s->train->loss_scale_growth, MOST);
}

bool mt_loss_scale_step(struct mt_loss_scale *scale, bool finite)
{
	struct mt_loss_scale *s = scale;
	double least = s->train->loss_scale_least;

	s->of_gradients = s->value;
	if (!s->dynamic)
		return false;
	if (finite) {
		grow(s);
		return false;
	}
	s->good_steps = 0;
	if (s->hysteresis > 1) {
		s->hysteresis--;
		return true;
	}
	if (s->value <= least) /* it is not the scale */
		return false;
	s->value = fmax(s->value * s->train->loss_scale_backoff, least);
	return true;
}

json_t *mt_loss_scale_json(const struct mt_loss_scale *scale)
{
	return json_pack("{s:f, s:I, s:I}", "value", scale->value, "good_steps", (json_int_t)scale->good_steps, "hysteresis",
			 (json_int_t)scale->hysteresis);
}

void mt_loss_scale_load(struct mt_loss_scale *scale, const json_t *state)
{
	double value = mt_json_get_number(state, "value", 0);

	if (!scale->dynamic || !(value > 0))
		return;
	scale->value = value;
	scale->good_steps = mt_json_get_int(state, "good_steps", 0);
	scale->hysteresis = mt_json_get_int(state, "hysteresis", scale->train->loss_scale_hysteresis);
}
