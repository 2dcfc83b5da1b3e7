#!/usr/bin/env python3
"""peer_pytorch.py DEVICE MODEL LAYERS SEQUENCES TOKENS PEAK_TFLOPS [STEPS]

The training step of the same shape in PyTorch, for gpu_bench.sh: f32 parameters, bf16 by autocast, fused attention
(scaled_dot_product_attention), fused AdamW, gradient clipping at 1, as a user would write it; once as it is and once through
torch.compile. Prints one line each; MFU against the same peak and by the same count of FLOPs as ours. Exit 77: not possible here.
"""
import statistics
import sys
import time

# name: hidden, heads, kv_heads, head_dim, ffn, vocab, llama
SHAPES = {
    "gpt-tiny": (64, 8, 8, 8, 256, 512, False),
    "llama-tiny": (64, 8, 8, 8, 176, 512, True),
    "gpt2-124m": (768, 12, 12, 64, 3072, 50257, False),
    "gpt2-1558m": (1600, 25, 25, 64, 6400, 50257, False),
    "llama3-8b": (4096, 32, 8, 128, 14336, 128256, True),
}
WARM_UP = {"cuda": 5, "cpu": 2}


def build(torch, shape, layers, tokens):
    nn, F = torch.nn, torch.nn.functional
    hidden, heads, kv_heads, dim, ffn, vocab, llama = shape

    class RMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(hidden))

        def forward(self, x):
            wide = x.float()
            return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + 1e-5)).to(x.dtype) * self.weight.to(x.dtype)

    def make_norm():
        return RMSNorm() if llama else nn.LayerNorm(hidden)

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = make_norm(), make_norm()
            self.qkv = nn.Linear(hidden, (heads + 2 * kv_heads) * dim, bias=not llama)
            self.proj = nn.Linear(heads * dim, hidden, bias=not llama)
            self.up = nn.Linear(hidden, 2 * ffn if llama else ffn, bias=not llama)
            self.down = nn.Linear(ffn, hidden, bias=not llama)

        def forward(self, x, cos, sin):
            b, t, _ = x.shape
            q, k, v = self.qkv(self.norm1(x)).split([heads * dim, kv_heads * dim, kv_heads * dim], -1)
            q = q.view(b, t, heads, dim).transpose(1, 2)
            k, v = (y.view(b, t, kv_heads, dim).transpose(1, 2) for y in (k, v))
            if llama:
                q, k = rotate(q, cos, sin), rotate(k, cos, sin)
                if kv_heads != heads:
                    k, v = (y.repeat_interleave(heads // kv_heads, 1) for y in (k, v))
            o = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.proj(o.transpose(1, 2).reshape(b, t, heads * dim))
            y = self.up(self.norm2(x))
            if llama:
                gate, y = y.chunk(2, -1)
                y = F.silu(gate) * y
            else:
                y = F.gelu(y, approximate="tanh")
            return x + self.down(y)

    def rotate(x, cos, sin):
        a, b = x.chunk(2, -1)
        return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x.dtype)

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.words = nn.Embedding(vocab, hidden)
            self.positions = None if llama else nn.Embedding(tokens, hidden)
            self.blocks = nn.ModuleList(Block() for _ in range(layers))
            self.norm = make_norm()
            self.head = nn.Linear(hidden, vocab, bias=False)
            if not llama:
                self.head.weight = self.words.weight
            nn.init.normal_(self.words.weight, std=0.02)
            angle = torch.outer(torch.arange(tokens), 500000.0 ** (-torch.arange(0, dim, 2) / dim))
            self.register_buffer("cos", angle.cos())
            self.register_buffer("sin", angle.sin())

        def forward(self, x, y):
            h = self.words(x)
            if self.positions is not None:
                h = h + self.positions.weight[: x.shape[1]]
            for block in self.blocks:
                h = block(h, self.cos, self.sin)
            logits = self.head(self.norm(h))
            return F.cross_entropy(logits.view(-1, vocab).float(), y.reshape(-1))

    return Model()


def step_flops(shape, layers, tokens, seq):
    """6 T (N_matmul + hidden vocab) + 6 T seq layers heads head_dim: the README's."""
    hidden, heads, kv_heads, dim, ffn, vocab, llama = shape
    matmul = layers * (hidden * (heads + 2 * kv_heads) * dim + heads * dim * hidden + (3 if llama else 2) * hidden * ffn)
    return 6 * tokens * (matmul + hidden * vocab) + 6 * tokens * seq * layers * heads * dim


def run(torch, device, model, sequences, seq, vocab, steps):
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    times, loss = [], None
    for step in range(WARM_UP[device] + steps):
        words = torch.randint(vocab, (sequences, seq + 1), device=device)
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = model(words[:, :-1], words[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        value = loss.item()  # waits
        if step >= WARM_UP[device]:
            times.append(time.perf_counter() - start)
    return statistics.median(times), value


def main(arguments):
    try:
        import torch
    except ImportError:
        print("pytorch  not installed")
        return 77
    device, name, layers, sequences, seq, peak = arguments[0], arguments[1], *map(int, arguments[2:5]), float(arguments[5])
    steps = int(arguments[6]) if len(arguments) > 6 else 10
    device = device if device == "cuda" else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        print("pytorch  has no CUDA device here")
        return 77
    shape, status = SHAPES[name], 0
    torch.manual_seed(1)
    for compiled in (False, True):
        how = "compiled" if compiled else "eager"
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        try:
            with torch.device(device):
                model = build(torch, shape, layers, seq)
            called = torch.compile(model) if compiled else model
            seconds, loss = run(torch, device, called, sequences, seq, shape[5], steps)
        except Exception as error:  # out of memory, or no compiler for torch.compile: its line says so
            print(f"pytorch {torch.__version__} {how}, {name}: {type(error).__name__}: {str(error).splitlines()[0][:120]}")
            status = status or (77 if "OutOfMemory" in type(error).__name__ or compiled else 1)
            continue
        finally:
            model = called = None
            if device == "cuda":
                torch.cuda.empty_cache()
        tflops = step_flops(shape, layers, sequences * seq, seq) / seconds * 1e-12
        memory = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0
        print(
            f"pytorch {torch.__version__} {how}, {name}, {layers} layers, {sequences} x {seq} tokens, bf16 autocast: "
            f"{seconds * 1e3:.2f} ms a step, {sequences * seq / seconds:.0f} tokens/s, {tflops:.2f} TFLOP/s, "
            f"MFU {tflops / peak:.3f} of {peak:.1f} TFLOP/s, {memory:.1f} GiB, loss {loss:.4f}",
            flush=True,
        )
    return status


if __name__ == "__main__":
    if len(sys.argv) < 7:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    sys.exit(main(sys.argv[1:]))
