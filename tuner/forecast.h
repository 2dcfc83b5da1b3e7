/* forecast: the step time and memory of a layout on a machine that is not at hand, from its description alone: no engine, no
 * measurement, every feature of published runs (interleaving, context and expert parallelism, ZeRO-3, 8-bit products). Pure
 * functions without allocation. */
#ifndef MT_TUNER_FORECAST_H
#define MT_TUNER_FORECAST_H

#include "profiles/target.h"

enum mt_case_recompute { MT_CASE_NONE, MT_CASE_SELECTIVE, MT_CASE_FULL };

/* A model, a layout and a batch. */
struct mt_case {
	double layers, hidden, heads, kv_heads, head_dim, ffn, vocab, seq;
	double experts, topk; /* 0: dense */
	double shared_ffn;    /* width of the expert that all tokens meet; 0: none */
	bool gated;           /* three matrices in the MLP */
	bool dropout;         /* masks are kept: GPT-2's shape */
	double tp, pp, vp, cp, ep, dp, mbs, gbs;
	bool sp;
	int zero;      /* 0 to 3 */
	int recompute; /* enum mt_case_recompute */
	enum mt_width width;
	bool fused_attention;
	double windowed_frac, window; /* share of layers that attend to the last `window` positions only */
	bool balanced_stages;         /* the head counts for as many layers as it costs */
};

/* One layer, and the ends, of one micro-batch on one rank. */
struct mt_pass_forecast {
	double forward_s, backward_s;             /* as the rank spends them */
	double products_s, attention_s, vector_s; /* of both passes, before the host's share */
	double tp_s, ep_s, cp_s;                  /* communication that is not hidden */
	double host_s;                            /* what the host adds */
};

enum { MT_FORECAST_STAGES = 3 }; /* first, middle, last */

struct mt_memory_forecast {
	double parameters, gradients, optimizer, activations, overhead, total; /* bytes */
};

struct mt_forecast {
	double step_s;
	double compute_s, tp_s, ep_s, cp_s, pp_s, bubble_s, dp_s, optimizer_s, host_s, other_s; /* add up to step_s */
	double microbatches;
	double model_flops; /* of the step, causal attention as half */
	struct mt_memory_forecast memory[MT_FORECAST_STAGES];
	double peak_bytes;
};

void mt_forecast_layer(struct mt_pass_forecast *card, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
		       const struct mt_factors *f);
void mt_forecast_ends(struct mt_pass_forecast *embedding, struct mt_pass_forecast *head, const struct mt_case *c,
		      const struct mt_target *t, const struct mt_stack *s, const struct mt_factors *f);
/* Cards to a step. */
void mt_forecast_compose(struct mt_forecast *out, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
			 const struct mt_factors *f, const struct mt_pass_forecast *layer, const struct mt_pass_forecast *embedding,
			 const struct mt_pass_forecast *head);
/* All of it. */
void mt_forecast_step(struct mt_forecast *out, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
		      const struct mt_factors *f);
/* Seconds of a collective. */
double mt_forecast_collective(const struct mt_target *t, const struct mt_factors *f, enum mt_collective op, struct mt_span span,
			      double bytes);
/* Memory by stage; part of mt_forecast_compose. */
void mt_forecast_memory(struct mt_forecast *out, const struct mt_case *c, const struct mt_stack *s);

/* Layers of the first, a middle and the last stage. Where pp does not divide them but divides two more, embedding and head stand
 * for a layer each, as in Megatron-Core. */
void mt_case_layers(const struct mt_case *c, double layers[MT_FORECAST_STAGES]);
double mt_case_layer_parameters(const struct mt_case *c, double *expert); /* all ranks; expert part in *expert */
double mt_case_model_flops(const struct mt_case *c);
extern const struct mt_factors mt_factors_none; /* all 1 */

#endif
