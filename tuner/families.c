#include "tuner/families.h"

#include <string.h>

static bool begins(const char *text, const char *with)
{
	return strncmp(text, with, strlen(with)) == 0;
}

/* Every other layer sees 128 positions; experts have biases and clamped gates: OpenAI 2025, gpt-oss model card. */
static void gpt_oss(struct mt_case *c)
{
	c->head_dim = 64;
	c->clamped = true;
	c->windowed_frac = 0.5;
	c->window = 128;
}

/* Latent attention: DeepSeek-AI 2024, arXiv:2405.04434 (V2, V2-Lite), arXiv:2412.19437 (V3); Kimi K2 (Moonshot 2025,
 * arXiv:2507.20534) and Moonlight are of the same make. An MLP row of theirs is an expert's: layers without experts, and experts
 * that all tokens meet, have no column. */
static void deepseek(struct mt_case *c)
{
	bool third = c->hidden >= 7168, lite = c->hidden <= 2048;

	c->kv_heads = c->heads;
	c->head_dim = 192;
	c->rope_dim = 64;
	c->v_dim = 128;
	c->kv_rank = 512;
	c->q_rank = lite ? 0 : 1536;
	if (c->experts > 0) {
		c->shared_ffn = (third ? 1 : 2) * c->ffn;
		c->dense_layers = third && c->experts < 384 ? 3 : 1;
		c->dense_ffn = third ? 18432 : lite ? 10944 : 12288;
	}
}

void mt_case_family(struct mt_case *c, const char *arch, bool fused)
{
	bool oss = begins(arch, "gpt-oss"), gpt = begins(arch, "gpt") && !oss;

	c->head_dim = c->heads > 0 ? c->hidden / c->heads : 0;
	c->gated = !gpt;
	c->dropout = gpt && !fused;
	if (begins(arch, "qwen3"))
		c->head_dim = 128; /* Qwen team 2025, arXiv:2505.09388 */
	else if (oss)
		gpt_oss(c);
	else if (begins(arch, "deepseek") || begins(arch, "kimi") || begins(arch, "moonlight"))
		deepseek(c);
}
