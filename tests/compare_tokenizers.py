#!/usr/bin/env python3
"""compare_tokenizers.py: megatune's tokens against those of Hugging Face's `tokenizers` (pip install tokenizers).

  compare_tokenizers.py train FOLDER            trains small tokenizers of each known build into FOLDER/NAME.json
  compare_tokenizers.py golden FOLDER           FOLDER/cases.jsonl: texts with the tokens of each tokenizer in FOLDER
  compare_tokenizers.py compare MEGATUNE COUNT TOKENIZER.json...   random texts through both; exit 1 on the first difference

Builds: gpt2 (byte level, its pattern), llama3 (pattern of three digits, whole words first), qwen (NFC, single digits),
llama2 (no pre-tokenizer, marks for spaces, byte fallback), metaspace (the same as newer files write it), deepseek (three
patterns in turn). Exit 77 when the package is not installed.
"""
import glob
import json
import os
import random
import subprocess
import sys
import tempfile
import unicodedata

try:
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
except ImportError:
    print("the Python package tokenizers is not installed", file=sys.stderr)
    sys.exit(77)

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
DEEPSEEK = [r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|"
            r"\s*[\r\n]+|\s+(?!\S)|\s+"]
LICENSES = sorted(glob.glob("/usr/share/common-licenses/*"))


def corpus():
    for path in LICENSES:
        with open(path, encoding="utf-8", errors="replace") as file:
            yield file.read()
    yield "na\u00efve caf\u00e9 \u00fcber stra\u00dfe 12345 67 \u65e5\u672c\u8a9e\u306e\u6587\u7ae0 \u0440\u0443\u0441\u0441\u043a\u0438\u0439 \u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac \U0001f600\U0001f680 \u0939\u093f\u0928\u094d\u0926\u0940 " * 50


def byte_level(pre, normalizer=None, **model):
    t = Tokenizer(models.BPE(**model))
    t.pre_tokenizer = pre
    if normalizer:
        t.normalizer = normalizer
    t.decoder = decoders.ByteLevel()
    return t, dict(initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def marks():
    return Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>")), dict(
        special_tokens=["<unk>", "<s>", "</s>"] + ["<0x%02X>" % b for b in range(256)], limit_alphabet=80)


def builds():
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    yield "gpt2", *byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)), ["<|endoftext|>"]
    yield "llama3", *byte_level(pre_tokenizers.Sequence([split(LLAMA3), bytes_only]), ignore_merges=True), [
        "<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    yield "qwen", *byte_level(pre_tokenizers.Sequence([split(QWEN), bytes_only]), normalizers.NFC()), [
        "<|endoftext|>", "<|im_start|>", AddedToken("<think>", normalized=True, special=False)]
    yield "deepseek", *byte_level(pre_tokenizers.Sequence([split(p) for p in DEEPSEEK] + [bytes_only])), [
        "<\uff5cbegin\u2581of\u2581sentence\uff5c>", AddedToken("<mask>", lstrip=True, rstrip=True, normalized=False)]
    t, trainer = marks()
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    yield "llama2", t, trainer, []
    t, trainer = marks()
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    yield "metaspace", t, trainer, []
    t, trainer = marks()
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    yield "metaspace-split", t, trainer, []


def train(folder):
    os.makedirs(folder, exist_ok=True)
    for name, t, options, added in builds():
        texts = list(corpus())
        if name == "llama2":  # as training sees pieces of a document, not the whole of it
            texts = [line for text in texts for line in text.splitlines()]
        t.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=900, show_progress=False, **options))
        for token in added:
            t.add_tokens([token]) if isinstance(token, AddedToken) else t.add_special_tokens([token])
        t.save(os.path.join(folder, name + ".json"), pretty=False)


WORDS = ("the License covered work isn't WE'LL it's I'd 'Tis don\u2019t 12345678 3.14 \u0663\u0664 \u00bd \u2167 e\u0301 \u00e9 \u1100\u1161 "
         "\u0958 \u65e5\u672c\u8a9e \u30c6\u30b9\u30c8 \ud55c\uad6d\uc5b4 \U0001f468\u200d\U0001f469\u200d\U0001f467 \u0928\u092e\u0938\u094d\u0924\u0947 _x_ -- ... \u2014 # $% foo_bar CamelCase <s> </s> "
         "<|endoftext|> <|begin_of_text|> <|eot_id|> <mask> <think> <0x41> \u2581x \u017f's 'S 'RE").split()
SPACES = [" ", " ", " ", "  ", "\n", "\r\n", "\n\n\n", "\t", "\u00a0", "\u3000", "\u2028", "\u0085", "   \n  ", "\u180e", ""]


def assigned(limit):
    """A character that Unicode 9 already had: the libraries on both sides know it."""
    while True:
        c = random.randrange(limit)
        if 0xD800 <= c < 0xE000 or c == 0:
            continue
        if unicodedata.ucd_3_2_0.category(chr(c)) not in ("Cn", "Cs"):
            return chr(c)


def random_text():
    kind, parts = random.randrange(5), []
    for _ in range(random.randrange(1, 30)):
        if kind == 0:
            parts.append(assigned(random.choice([0x80, 0x250, 0x3000, 0x20000])))
        elif kind == 1:
            parts.append(random.choice(WORDS) + random.choice(SPACES))
        elif kind == 2:
            text = random.choice(TEXTS)
            at = random.randrange(len(text))
            parts.append(text[at:at + random.randrange(1, 40)])
        elif kind == 3:
            parts.append(random.choice(SPACES) * random.randrange(1, 4))
            parts.append(chr(random.randrange(1, 0x80)))
        else:
            parts.append(random.choice([random.choice(WORDS), random.choice(SPACES), assigned(0x3000)]))
    return "".join(parts)


def texts_of(count, seed):
    random.seed(seed)
    return [text for text in (random_text() for _ in range(count)) if text]


def ids_of(tokenizer, text):
    return tokenizer.encode(text, add_special_tokens=False).ids


def golden(folder):
    loaded = {os.path.basename(p)[:-5]: Tokenizer.from_file(p) for p in sorted(glob.glob(folder + "/*.json"))}
    with open(os.path.join(folder, "cases.jsonl"), "w", encoding="utf-8") as out:
        for text in texts_of(60, 7):
            out.write(json.dumps({"text": text, **{n: ids_of(t, text) for n, t in loaded.items()}}, separators=(",", ":")) + "\n")


def compare(program, count, paths):
    texts = texts_of(count, int(os.environ.get("SEED", "1")))
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": t}) + "\n" for t in texts)
        file.flush()
        for path in paths:
            done = subprocess.run([*program.split(), "data", "encode", file.name, "--tokenizer", path], capture_output=True, text=True)
            if done.returncode:
                sys.exit(f"{path}: exit {done.returncode}: {done.stderr}")
            ours = [json.loads(line) for line in done.stdout.splitlines()]
            tokenizer = Tokenizer.from_file(path)
            if len(ours) != len(texts):
                sys.exit(f"{path}: {len(ours)} lines for {len(texts)} texts")
            for text, got in zip(texts, ours):
                wanted = ids_of(tokenizer, text)
                if got != wanted:
                    sys.exit(f"{path}: {text!r}\n  ours   {got}\n  theirs {wanted}\n         {tokenizer.encode(text, add_special_tokens=False).tokens}")
            print(f"{path}: {len(texts)} texts, {sum(map(len, ours))} tokens, all equal")


if __name__ == "__main__":
    TEXTS = list(corpus())
    {"train": lambda a: train(a[0]), "golden": lambda a: golden(a[0]),
     "compare": lambda a: compare(a[0], int(a[1]), a[2:])}[sys.argv[1]](sys.argv[2:])
