/* learning_rate: the schedules, as Megatron-LM has them.
 *
 *   warm-up               peak * done / warmup
 *   constant              peak
 *   cosine, linear        from peak to least between warmup and decay_steps
 *   wsd                   peak until wsd_steps before decay_steps, then least + (peak - least) f(r), r from 0 to 1 over wsd_steps:
 *                         exponential 2 * 0.5^r - 1, linear 1 - r, cosine, minus-sqrt 1 - sqrt(r)
 *   inverse-square-root   peak sqrt(warmup / done), least at least
 * Hu et al. 2024, arXiv:2404.06395 (warm-up-stable-decay).
 *
 * The weight decay goes from weight_decay to weight_decay_end over all steps, by r or by (1 - cos(pi r)) / 2. */
#include "engine/run.h"

#include <math.h>

static double wsd_share(const struct mt_train_options *train, double begun, double end)
{
	double steps = (double)train->wsd_steps, r = steps > 0 ? (begun - (end - steps)) / steps : 0;

	if (r <= 0)
		return 1;
	r = r < 1 ? r : 1;
	switch ((enum mt_wsd_decay)train->wsd_decay) {
	case MT_WSD_EXPONENTIAL:
		return 2 * pow(0.5, r) - 1;
	case MT_WSD_LINEAR:
		return 1 - r;
	case MT_WSD_COSINE:
		return 0.5 * (1 + cos(M_PI * r));
	case MT_WSD_MINUS_SQRT:
		return 1 - sqrt(r);
	}
	return 1;
}

/* What is left of the way from peak to least. */
static double share(const struct mt_train_options *train, double begun)
{
	double warmup = (double)train->warmup_steps, end = (double)(train->decay_steps > 0 ? train->decay_steps : train->steps);
	double progress = end > warmup ? (begun - warmup) / (end - warmup) : 0;

	progress = progress < 1 ? progress : 1;
	switch ((enum mt_decay)train->decay) {
	case MT_DECAY_COSINE:
		return 0.5 * (1 + cos(M_PI * progress));
	case MT_DECAY_LINEAR:
		return 1 - progress;
	case MT_DECAY_WSD:
		return wsd_share(train, begun, end);
	case MT_DECAY_CONSTANT:
	case MT_DECAY_INVERSE_SQUARE_ROOT:
		break;
	}
	return 1;
}

double mt_learning_rate(const struct mt_train_options *train, double peak, double least, double begun, double done)
{
	double warmup = (double)train->warmup_steps, rate;

	if (begun < warmup)
		return peak * (done < warmup ? done / warmup : 1);
	if (train->decay == MT_DECAY_INVERSE_SQUARE_ROOT) {
		rate = peak * sqrt((warmup > 1 ? warmup : 1) / (done > 1 ? done : 1));
		return rate > least ? rate : least;
	}
	return least + (peak - least) * share(train, begun);
}

double mt_weight_decay(const struct mt_train_options *train, double begun)
{
	double r = train->steps > 0 ? begun / (double)train->steps : 0;

	if (train->weight_decay_end < 0)
		return train->weight_decay;
	r = r < 1 ? r : 1;
	if (train->weight_decay_rise == MT_RISE_COSINE)
		r = 0.5 * (1 - cos(M_PI * r));
	return train->weight_decay + r * (train->weight_decay_end - train->weight_decay);
}

enum mt_status mt_optimizer_check(const struct mt_run *run, const char *where)
{
	const struct mt_train_options *train = &run->train;
	double peak = train->embedding_lr > 0 ? train->embedding_lr : train->lr;
	double least = train->embedding_min_lr > 0 ? train->embedding_min_lr : train->min_lr;
	int64_t end = train->decay_steps > 0 ? train->decay_steps : train->steps;

	if (least > peak)
		return mt_fail(MT_INPUT, "%s: of word embedding and head min_lr %g is above lr %g: set embedding_min_lr", where,
			       least, peak);
	if (train->momentum >= 1)
		return mt_fail(MT_INPUT, "%s: momentum %g must be below 1", where, train->momentum);
	if (train->decay == MT_DECAY_WSD && train->wsd_steps < 1)
		return mt_fail(MT_INPUT, "%s: decay wsd needs wsd_steps, the steps of its last part", where);
	if (train->decay == MT_DECAY_WSD && train->wsd_steps > end - train->warmup_steps)
		return mt_fail(MT_INPUT, "%s: wsd_steps %lld are more than the %lld steps after the warm-up", where,
			       (long long)train->wsd_steps, (long long)(end - train->warmup_steps));
	return MT_OK;
}
