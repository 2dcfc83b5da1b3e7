/* families: what a family of models has beside the widths that a table of runs gives. */
#ifndef MT_TUNER_FAMILIES_H
#define MT_TUNER_FAMILIES_H

#include "tuner/forecast.h"

/* Sets in `c`, whose widths are read, what is the same for all models of the family that `arch` begins with the name of (as in
 * tables of runs: "qwen3-moe", "gpt-oss-moe", "deepseek-v3", "gpt(alibi)"): head size, gates, window, latent attention, shared
 * experts, first dense layers. Of DeepSeek's models and those built alike, which of them it is shows in their widths. A family that
 * is not known is LLaMA's: gated MLP, heads of hidden / heads. `fused`: the runs' attention is. */
void mt_case_family(struct mt_case *c, const char *arch, bool fused);

#endif
