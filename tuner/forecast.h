/* forecast: the step time and memory of a layout on a machine that is not at hand, from its description alone: no engine, no
 * measurement, every feature of published runs (interleaving, context and expert parallelism, ZeRO-3, 8-bit products). Pure
 * functions without allocation. */
#ifndef MT_TUNER_FORECAST_H
#define MT_TUNER_FORECAST_H

#include "tuner/vee.h"
#include "engine/layout.h"
#include "profiles/target.h"

enum mt_case_recompute { MT_CASE_NONE, MT_CASE_SELECTIVE, MT_CASE_FULL };
/* Selective: the outputs that are not kept, any of them together. Scores are kept by none where attention is fused. */
enum mt_case_selected { MT_CASE_ATTENTION = 1, MT_CASE_ACTIVATION = 2, MT_CASE_NORMS = 4, MT_CASE_SELECTIONS = 8 };

/* A model, a layout and a batch. */
struct mt_case {
	double layers, hidden, heads, kv_heads, head_dim, ffn, vocab, seq;
	double experts, topk; /* 0: dense */
	double shared_ffn;    /* width of the expert that all tokens meet; 0: none */
	bool gated;           /* three matrices in the MLP */
	bool clamped;         /* experts have biases, gates and values are clamped (gpt-oss) */
	bool dropout;         /* masks are kept: GPT-2's shape */
	double tp, pp, vp, cp, ep, dp, mbs, gbs;
	bool sp;
	int cp_kind;       /* enum mt_context_kind */
	double cp_inner;   /* hybrid: ranks that exchange heads */
	int zero;          /* 0 to 3 */
	double zero_group; /* ranks that shard between them; 0: all with the same parameters */
	int recompute;     /* enum mt_case_recompute */
	int selected;      /* selective: enum mt_case_selected */
	bool tp_overlap;   /* the stack's switch is on */
	enum mt_width width;
	bool fused_attention;
	double windowed_frac, window; /* share of layers that attend to the last `window` positions only */
	bool balanced_stages;         /* the head counts for as many layers as it costs */
	/* multi-head latent attention, engine/latent.h: kv_rank 0: none; head_dim is what RoPE turns and what it does not */
	double q_rank, kv_rank, rope_dim, v_dim;
	double mtp;                     /* multi-token modules, beside the head */
	double dense_layers, dense_ffn; /* the first layers that have an MLP of that width in place of experts */
	double expert_every;            /* of the others every so many, from the first on, has experts; 0: each */
	double etp;                     /* tensor-parallel ranks of an expert; 0: tp */
	bool ends_given;                /* the first and last stage have so many layers less than the others */
	double first_less, last_less;
	bool pp_before_dp; /* ranks in the order tp-cp-ep-pp-dp, not tp-cp-ep-dp-pp; etp * ep is tp * cp then, as without experts */
	bool zero_bubble;  /* ZB-H1: weight gradients fill the waits (engine/schedule.h) */
	bool vee;          /* ZB-V: the same in a V, vp is 2, stages have equal layers; the first has both ends */
	struct mt_vee *waits; /* borrowed: of ZB-V, what was replayed; NULL: nothing is kept */
};

/* One layer, and the ends, of one micro-batch on one rank. */
struct mt_pass_forecast {
	double forward_s, backward_s;             /* as the rank spends them */
	double wgrad_s;                           /* of backward_s: products of weight gradients */
	double products_s, attention_s, vector_s; /* of both passes, before the host's share */
	double tp_s, ep_s, cp_s;                  /* communication that is not hidden */
	double host_s;                            /* what the host adds */
};

/* Cards of all that a stage has: a layer as most are, one with an MLP in place of experts, the ends, a multi-token module with its
 * pass through the head. */
struct mt_forecast_cards {
	struct mt_pass_forecast layer, dense, embedding, head, module;
};

/* Of a layer what depends neither on recompute nor on the kind of context parallelism nor on tp_overlap: what makes it costly to
 * know. Products of both passes, the core of attention, vector operations, exchanges of one pass with nothing hidden, the host. */
struct mt_layer_parts {
	double forward_s, backward_s, wgrad_s;
	double core_s, core_back_s, vector_s, tp_s, ep_s, host_s, host_back_s;
	double tp_copy_s; /* of what tp_s gathers and scatters: a pass, never hidden */
	double sum_s;     /* of weight gradients to those of the micro-batches before */
};
struct mt_forecast_parts {
	struct mt_layer_parts layer, dense;
	struct mt_pass_forecast embedding, head;
	double join_forward_s, join_backward_s, join_wgrad_s; /* of a multi-token module */
};

enum { MT_FORECAST_STAGES = 3 }; /* first, middle, last */

/* What a stage has. */
struct mt_case_stage {
	double layers, dense; /* all, and of them those with an MLP in place of experts */
	double modules;
	double words; /* matrices of the vocabulary */
	bool first, last;
};
/* Weights of a layer or module: those of which each tensor-parallel rank has a part, those that all have, those of the experts. */
struct mt_case_weights {
	double split, whole, expert;
};

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

void mt_forecast_cards(struct mt_forecast_cards *cards, const struct mt_case *c, const struct mt_target *t,
		       const struct mt_stack *s, const struct mt_factors *f);
/* The same in two steps. */
void mt_forecast_parts(struct mt_forecast_parts *parts, const struct mt_case *c, const struct mt_target *t,
		       const struct mt_stack *s, const struct mt_factors *f);
void mt_forecast_finish(struct mt_forecast_cards *cards, const struct mt_forecast_parts *parts, const struct mt_case *c,
			const struct mt_target *t, const struct mt_stack *s, const struct mt_factors *f);
/* Cards to a step, but for what the stages of a V wait (`vee`). */
void mt_forecast_passes(struct mt_forecast *out, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
			const struct mt_factors *f, const struct mt_forecast_cards *cards);
/* Cards to a step. */
void mt_forecast_compose(struct mt_forecast *out, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
			 const struct mt_factors *f, const struct mt_forecast_cards *cards);
/* All of it. */
void mt_forecast_step(struct mt_forecast *out, const struct mt_case *c, const struct mt_target *t, const struct mt_stack *s,
		      const struct mt_factors *f);
/* Seconds of a collective. */
double mt_forecast_collective(const struct mt_target *t, const struct mt_factors *f, enum mt_collective op, struct mt_span span,
			      double bytes);
/* Memory by stage; part of mt_forecast_compose. */
void mt_forecast_memory(struct mt_forecast *out, const struct mt_case *c, const struct mt_stack *s);

/* forecast_case.c. The first, a middle and the last stage. Unless ends are given: where pp does not divide the layers but divides
 * two more, embedding and head stand for a layer each, as in Megatron-Core. Layers without experts that the first stage has no room
 * for are not on the middle one, which stands for the heaviest. */
void mt_case_stages(const struct mt_case *c, struct mt_case_stage stages[MT_FORECAST_STAGES]);
/* Layers that have an MLP in place of experts. */
double mt_case_dense(const struct mt_case *c);
/* Of a layer, with experts where the model has them and `dense` is not set; of all ranks. */
struct mt_case_weights mt_case_layer_weights(const struct mt_case *c, bool dense);
/* Of a stage, on one rank: weights, and of them those of experts. */
double mt_case_stage_weights(const struct mt_case *c, const struct mt_case_stage *stage, double *expert);
double mt_case_parameters(const struct mt_case *c);      /* of all matrices, both ends' words */
double mt_case_model_flops(const struct mt_case *c);     /* as mt_model_step_flops */
double mt_case_expert_replicas(const struct mt_case *c); /* ranks that hold the same part of the same experts */
/* Of `replicas` ranks that hold the same parameters: those that share out one copy, as engine/shard.c counts them. */
double mt_case_shards(const struct mt_case *c, double replicas);
/* What a token meets of an MLP's inner width, all its experts together. */
double mt_case_inner_width(const struct mt_case *c, bool dense);
/* Ranks that exchange heads; the cp / inner others pass keys and values on. */
double mt_case_cp_inner(const struct mt_case *c);
static inline double mt_case_etp(const struct mt_case *c)
{
	return c->etp > 0 ? c->etp : c->tp;
}
/* Elements of a value's head. */
static inline double mt_case_v_dim(const struct mt_case *c)
{
	return c->kv_rank > 0 ? c->v_dim : c->head_dim;
}
extern const struct mt_factors mt_factors_none; /* all 1 */

#endif
