/* export_megatron_model: the model in the words of Megatron-LM: sizes, attention, positions, experts and their router. */
#define _GNU_SOURCE
#include "tuner/export_words.h"

#include <stdlib.h>

/* Experts of a token: scores, what limits the choice, what balances it. */
static void put_router(struct mt_export *e, const struct mt_model *m)
{
	bool sigmoid = m->router == MT_MODEL_SIGMOID;

	mt_export_text(e, "--moe-router-score-function", sigmoid ? "sigmoid" : "softmax");
	if (!sigmoid && !m->router_normalize) /* else the weights of the chosen sum to one */
		mt_export_flag(e, "--moe-router-pre-softmax");
	if (sigmoid && !m->router_normalize)
		mt_export_note(e, "router_normalize false: Megatron-LM's sigmoid router makes the weights sum to one");
	if (m->router_scale != 1)
		mt_export_real(e, "--moe-router-topk-scaling-factor", m->router_scale);
	if (m->router_sets > 1) {
		mt_export_integer(e, "--moe-router-num-groups", m->router_sets);
		mt_export_integer(e, "--moe-router-group-topk", m->set_top);
		if (mt_model_set_best(m) != m->top_k / m->set_top)
			mt_export_note(e, "set_best %lld: Megatron-LM takes the best %lld of a set",
				       (long long)mt_model_set_best(m), (long long)(m->top_k / m->set_top));
	}
	if (m->router_bias) {
		mt_export_flag(e, "--moe-router-enable-expert-bias");
		mt_export_real(e, "--moe-router-bias-update-rate", m->bias_rate);
	}
	mt_export_text(e, "--moe-router-load-balancing-type", m->balance_loss > 0 ? "seq_aux_loss" : "none");
	if (m->balance_loss > 0)
		mt_export_real(e, "--moe-aux-loss-coeff", m->balance_loss);
	if (m->z_loss > 0)
		mt_export_real(e, "--moe-z-loss-coeff", m->z_loss);
	if (m->capacity > 0) {
		mt_export_real(e, "--moe-expert-capacity-factor", m->capacity);
		mt_export_text(e, "--moe-token-drop-policy", m->drop == MT_MODEL_DROP_LIGHTEST ? "probs" : "position");
		if (m->capacity_pad)
			mt_export_flag(e, "--moe-pad-expert-input-to-capacity");
	}
}

/* "([0]*3+[1]*58)": which layers have experts. */
static void put_expert_layers(struct mt_export *e, const struct mt_model *m)
{
	char *string = NULL;
	size_t bytes = 0;
	FILE *file = open_memstream(&string, &bytes);

	if (!file)
		return;
	for (int64_t first = 0, end; first < m->layers; first = end) {
		bool routed = mt_model_layer_has_experts(m, first);

		for (end = first + 1; end < m->layers && mt_model_layer_has_experts(m, end) == routed;)
			end++;
		fprintf(file, "%s[%d]*%lld", first > 0 ? "+" : "(", routed, (long long)(end - first));
	}
	fputc(')', file);
	fclose(file);
	mt_export_text(e, "--moe-layer-freq", string);
	free(string);
}

static void put_experts(struct mt_export *e, const struct mt_run *r)
{
	const struct mt_model *m = &r->model;

	if (m->experts == 0)
		return;
	mt_export_integer(e, "--num-experts", m->experts);
	mt_export_integer(e, "--moe-router-topk", m->top_k);
	mt_export_integer(e, "--moe-ffn-hidden-size", m->expert_ffn);
	if (m->shared_ffn > 0)
		mt_export_integer(e, "--moe-shared-expert-intermediate-size", m->shared_ffn);
	if (m->shared_ffn > 0 && m->shared_gate)
		mt_export_flag(e, "--moe-shared-expert-gate");
	if (r->layout.etp > 0)
		mt_export_integer(e, "--expert-tensor-parallel-size", r->layout.etp);
	mt_export_flag(e, "--moe-grouped-gemm");
	mt_export_text(e, "--moe-token-dispatcher-type", "alltoall");
	if (mt_model_expert_layers(m) != m->layers)
		put_expert_layers(e, m);
	put_router(e, m);
}

/* Megatron-LM's latent attention scales RoPE by yarn with numbers that no argument has: what its configuration starts from. */
static void put_latent(struct mt_export *e, const struct mt_model *m)
{
	enum { ORIGINAL = 4096, LOW = 1, HIGH = 32 };

	if (!mt_model_is_latent(m))
		return;
	mt_export_flag(e, "--multi-latent-attention");
	if (m->q_rank > 0)
		mt_export_integer(e, "--q-lora-rank", m->q_rank);
	mt_export_integer(e, "--kv-lora-rank", m->kv_rank);
	mt_export_integer(e, "--qk-head-dim", m->nope_dim);
	mt_export_integer(e, "--qk-pos-emb-head-dim", m->rope_dim);
	mt_export_integer(e, "--v-head-dim", mt_model_v_dim(m));
	if (m->rope_scaling != MT_ROPE_YARN) {
		mt_export_text(e, "--rope-type", "rope");
		mt_export_flag(e, "--no-rope-fusion"); /* of yarn only */
		if (m->rope_scaling != MT_ROPE_PLAIN)
			mt_export_note(e, "beside latent attention Megatron-LM scales RoPE by yarn alone: the scale is left out");
		return;
	}
	mt_export_text(e, "--rope-type", "yarn");
	mt_export_real(e, "--rotary-scaling-factor", m->rope_factor);
	mt_export_real(e, "--mscale", m->rope_mscale > 0 ? m->rope_mscale : 1);
	mt_export_real(e, "--mscale-all-dim", m->rope_mscale_all);
	if (m->rope_original != ORIGINAL || m->rope_low != LOW || m->rope_high != HIGH || m->rope_magnitude > 0)
		mt_export_note(
			e,
			"yarn of latent attention is from 4096 positions with 1 and 32 turns in Megatron-LM, and no argument says "
			"otherwise: set original_max_position_embeddings, beta_slow and beta_fast in its configuration");
}

void mt_export_put_model(struct mt_export *e, const struct mt_run *r)
{
	const struct mt_model *m = &r->model;

	mt_export_integer(e, "--num-layers", m->layers);
	mt_export_integer(e, "--hidden-size", m->hidden);
	mt_export_integer(e, "--ffn-hidden-size", m->ffn);
	mt_export_integer(e, "--num-attention-heads", m->heads);
	if (m->kv_heads != m->heads) { /* never latent */
		mt_export_flag(e, "--group-query-attention");
		mt_export_integer(e, "--num-query-groups", m->kv_heads);
	}
	mt_export_integer(e, "--kv-channels", m->head_dim);
	mt_export_integer(e, "--seq-length", r->layout.seq);
	mt_export_integer(e, "--max-position-embeddings", m->seq > r->layout.seq ? m->seq : r->layout.seq);
	mt_export_text(e, "--normalization", m->norm == MT_MODEL_RMSNORM ? "RMSNorm" : "LayerNorm");
	mt_export_real(e, "--norm-epsilon", m->norm_eps);
	mt_export_text(e, "--position-embedding-type", m->position == MT_MODEL_ROPE ? "rope" : "learned_absolute");
	if (m->position == MT_MODEL_ROPE)
		mt_export_integer(e, "--rotary-base", (int64_t)m->rope_theta);
	if (m->mlp == MT_MODEL_SWIGLU)
		mt_export_flag(e, "--swiglu");
	if (!m->bias)
		mt_export_flag(e, "--disable-bias-linear");
	if (!m->tied)
		mt_export_flag(e, "--untie-embeddings-and-output-weights");
	put_experts(e, r);
	put_latent(e, m);
	if (m->mtp > 0) {
		mt_export_integer(e, "--mtp-num-layers", m->mtp);
		mt_export_real(e, "--mtp-loss-scaling-factor", m->mtp_weight);
	}
	if (m->qk_norm || mt_model_is_latent(m)) /* latent: the norms of the states */
		mt_export_flag(e, "--qk-layernorm");
	if (m->window > 0)
		mt_export_note(e, "window %lld: give --window-size and --window-attn-skip-freq by hand", (long long)m->window);
	if (!mt_model_is_latent(m) && (m->rope_scaling != MT_ROPE_PLAIN || m->rotary_dim > 0))
		mt_export_note(
			e, "the model scales RoPE or turns part of a head: give --use-rope-scaling or --rotary-percent by hand");
	mt_export_real(e, "--init-method-std", m->init_std);
	mt_export_real(e, "--attention-dropout", 0);
	mt_export_real(e, "--hidden-dropout", 0);
	if (m->position == MT_MODEL_ROPE && m->rope_theta != (double)(int64_t)m->rope_theta)
		mt_export_note(e, "rotary base %g is cut to a whole number", m->rope_theta);
}
