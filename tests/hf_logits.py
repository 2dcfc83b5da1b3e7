#!/usr/bin/env python3
"""Compares megatune's logits with those of Hugging Face's transformers.

  tests/hf_logits.py DIR [DIR...]     checkpoints that are there: a directory of config.json and safetensors each
  tests/hf_logits.py --random         small models with random weights, made here, of every family that megatune reads
  tests/hf_logits.py --export         the same models the other way: megatune's export of them, read by transformers

Needs torch, transformers and safetensors. The largest difference of any logit, over the root of the mean square of all, must be at
most --bound (1e-4). Exit status 0: all are within; 1: one is not; 77: a package is missing."""
import argparse
import json
import os
import subprocess
import sys
import tempfile

try:
    import torch
    import transformers
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def small_configs():
    """One small model a family; sizes differ from each other, so that nothing fits by chance."""
    common = dict(vocab_size=211, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4,
                  max_position_embeddings=128, tie_word_embeddings=False)
    llama3 = dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                  original_max_position_embeddings=32, rope_theta=10000.0)
    yarn = dict(rope_type="yarn", factor=4.0, beta_fast=32.0, beta_slow=1.0, mscale=1.0, mscale_all_dim=0.7,
                original_max_position_embeddings=32, rope_theta=10000.0)
    latent = dict(q_lora_rank=24, kv_lora_rank=20, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=12)
    t = transformers
    yield "gpt2", t.GPT2Config(vocab_size=211, n_embd=64, n_layer=3, n_head=4, n_positions=128)
    yield "llama", t.LlamaConfig(**common, num_key_value_heads=2, rope_parameters=llama3)
    yield "llama, linear", t.LlamaConfig(**common, rope_parameters=dict(rope_type="linear", factor=4.0, rope_theta=10000.0))
    yield "llama, yarn", t.LlamaConfig(**common, rope_parameters=dict(yarn, mscale=None, mscale_all_dim=None))
    yield "mistral", t.MistralConfig(**common, num_key_value_heads=2, sliding_window=7)
    yield "qwen2", t.Qwen2Config(**common, num_key_value_heads=2, use_sliding_window=True, sliding_window=5, max_window_layers=1)
    yield "qwen3", t.Qwen3Config(**common, num_key_value_heads=2, head_dim=24)
    yield "deepseek_v3, dense", t.DeepseekV3Config(**common, **latent, num_key_value_heads=4, first_k_dense_replace=3,
                                                   n_routed_experts=8, n_group=2, topk_group=1, num_experts_per_tok=2,
                                                   moe_intermediate_size=32, rope_parameters=yarn)
    yield "deepseek_v2, dense, full queries", t.DeepseekV2Config(**common, **dict(latent, q_lora_rank=None),
                                                                 num_key_value_heads=4, first_k_dense_replace=3,
                                                                 n_routed_experts=8, num_experts_per_tok=2,
                                                                 moe_intermediate_size=32)
    grouped = dict(common, num_key_value_heads=2)
    yield "mixtral", t.MixtralConfig(**grouped, num_local_experts=6, num_experts_per_tok=2)
    yield "qwen3_moe", t.Qwen3MoeConfig(**grouped, head_dim=24, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=40,
                                        norm_topk_prob=True, mlp_only_layers=[0])
    yield "qwen3_moe, each second", t.Qwen3MoeConfig(**grouped, head_dim=24, num_experts=6, num_experts_per_tok=2,
                                                     moe_intermediate_size=40, norm_topk_prob=False, decoder_sparse_step=2)
    yield "deepseek_v3", t.DeepseekV3Config(**common, **latent, num_key_value_heads=4, first_k_dense_replace=1,
                                            n_routed_experts=16, n_group=4, topk_group=2, num_experts_per_tok=4,
                                            n_shared_experts=2, moe_intermediate_size=24, routed_scaling_factor=2.5,
                                            norm_topk_prob=True, rope_parameters=yarn)
    yield "deepseek_v2", t.DeepseekV2Config(**common, **latent, num_key_value_heads=4, first_k_dense_replace=1, topk_method="greedy",
                                            n_group=1, topk_group=1, n_routed_experts=8, num_experts_per_tok=3, n_shared_experts=1,
                                            moe_intermediate_size=24, routed_scaling_factor=1.5)
    yield "deepseek_v2, groups", t.DeepseekV2Config(**common, **latent, num_key_value_heads=4, first_k_dense_replace=1,
                                                    topk_method="group_limited_greedy", n_group=4, topk_group=2,
                                                    n_routed_experts=16, num_experts_per_tok=5, n_shared_experts=1,
                                                    moe_intermediate_size=24, routed_scaling_factor=1.5)


def make_random(config, directory):
    torch.manual_seed(1)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:  # gains and biases away from ones and zeros
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.copy_(torch.randn_like(parameter) * 0.5 / parameter.shape[-1] ** 0.5)
    model.save_pretrained(directory, safe_serialization=True)


def theirs(directory, tokens):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].double()


def ours(program, directory, tokens):
    run = subprocess.run([program, "logits", directory, "--tokens", ",".join(map(str, tokens))], capture_output=True, text=True)
    if run.returncode != 0:
        raise RuntimeError(run.stderr.strip())
    return torch.tensor(json.loads(run.stdout)["logits"], dtype=torch.float64)


def compare(name, program, directory, bound, count, read=None):
    config = transformers.AutoConfig.from_pretrained(directory)
    count = min(count, getattr(config, "max_position_embeddings", count))
    generator = torch.Generator().manual_seed(7)
    tokens = torch.randint(0, config.vocab_size, (count,), generator=generator).tolist()
    try:
        got = ours(program, directory, tokens)
    except RuntimeError as failed:
        print(f"{name:36s} FAILED: {failed}")
        return False
    want = theirs(read or directory, tokens)
    error = ((got - want).abs().max() / want.square().mean().sqrt()).item()
    print(f"{name:36s} {count} tokens  difference {error:.2e}  {'ok' if error <= bound else 'FAILED'}")
    return error <= bound


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directories", nargs="*")
    parser.add_argument("--random", action="store_true")
    parser.add_argument("--export", action="store_true")
    parser.add_argument("--bound", type=float, default=1e-4)
    parser.add_argument("--tokens", type=int, default=40, help="tokens of the sequence")
    parser.add_argument("--program", default=os.path.join(ROOT, "build", "megatune"))
    given = parser.parse_args()
    print(f"torch {torch.__version__}, transformers {transformers.__version__}")
    good = [compare(d, given.program, d, given.bound, given.tokens) for d in given.directories]
    if given.random or given.export:
        for name, config in small_configs():
            with tempfile.TemporaryDirectory() as scratch:
                first, second = os.path.join(scratch, "first"), os.path.join(scratch, "second")
                make_random(config, first)
                if given.random:
                    good.append(compare(name, given.program, first, given.bound, given.tokens))
                if given.export:
                    run = subprocess.run([given.program, "ckpt", "convert", first, second], capture_output=True, text=True)
                    if run.returncode != 0:
                        print(f"{name:36s} FAILED: {run.stderr.strip()}")
                        good.append(False)
                        continue
                    good.append(compare(name + ", exported", given.program, first, given.bound, given.tokens, second))
    sys.exit(0 if good and all(good) else 1)


if __name__ == "__main__":
    main()
