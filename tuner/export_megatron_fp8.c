/* export_megatron_fp8: products in 8 bits as arguments of Megatron-LM, which leaves them to Transformer Engine. */
#include "tuner/export_words.h"

static void put_delayed(struct mt_export *e, const struct mt_layout *l)
{
	mt_export_integer(e, "--fp8-margin", l->fp8_margin);
	mt_export_integer(e, "--fp8-amax-history-len", l->fp8_history);
	mt_export_text(e, "--fp8-amax-compute-algo", l->fp8_amax == MT_FP8_AMAX_LATEST ? "most_recent" : "max");
	if (!l->fp8_wgrad)
		mt_export_flag(e, "--no-fp8-wgrad");
	if (l->fp8_skip_first > 0 || l->fp8_skip_last > 0)
		mt_export_note(e, "fp8_skip_first, fp8_skip_last: with delayed scaling Megatron-LM has all layers in 8 bits");
}

static void put_current(struct mt_export *e, const struct mt_layout *l)
{
	if (l->fp8_margin > 0)
		mt_export_note(e, "fp8_margin: Megatron-LM has one with delayed scaling only");
	if (!l->fp8_wgrad)
		mt_export_note(e, "fp8_wgrad: Megatron-LM does weight gradients in 16 bits with delayed scaling only");
	if (l->fp8_skip_first > 0 || l->fp8_skip_last > 0) {
		mt_export_flag(e, "--first-last-layers-bf16");
		mt_export_integer(e, "--num-layers-at-start-in-bf16", l->fp8_skip_first);
		mt_export_integer(e, "--num-layers-at-end-in-bf16", l->fp8_skip_last);
	}
}

void mt_export_put_fp8(struct mt_export *e, const struct mt_run *run, const struct mt_export_beyond *beyond)
{
	const struct mt_layout *l = &run->layout;

	if (beyond->precision[0] != '\0')
		mt_export_note(e, "the plan is for products in %s, the run file has none: give %s by hand", beyond->precision,
			       beyond->precision[0] == 'm' ? "--fp8-format e4m3 --fp8-recipe mxfp8"
							   : "--fp4-format e2m1 --fp4-recipe nvfp4");
	if (l->fp8 == MT_FP8_NONE)
		return;
	mt_export_text(e, "--fp8-format", l->fp8_format == MT_FP8_E4M3 ? "e4m3" : "hybrid");
	mt_export_text(e, "--fp8-recipe", l->fp8 == MT_FP8_CURRENT ? "tensorwise" : "delayed");
	if (l->fp8 == MT_FP8_CURRENT)
		put_current(e, l);
	else
		put_delayed(e, l);
}
