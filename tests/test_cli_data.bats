# shellcheck disable=SC2016 # single quotes hold Perl
# megatune data: what it builds is what it reads, bad input leaves nothing behind.

load cli_support

setup() {
	start_here
}

@test "build and inspect: documents, tokens and text come back" {
	printf '{"text": "hello world"}\n\n{"text": ""}\n{"text": "na\\u00efve \\u65e5\\u672c", "other": 1}\n' >"$GIVEN/a.jsonl"
	attempt megatune data build "$GIVEN/set" "$GIVEN/a.jsonl" --tokenizer "$ROOT/tests/data/tokenizers/gpt2.json" --json
	[ "$status" -eq 77 ] && skip "$(cat "$ERR")"
	finished
	check '$d->{documents} == 2 && $d->{empty_documents} == 1 && $d->{dtype} eq "u16" && $d->{replaced_bytes} == 0' "$OUT"
	attempt megatune data inspect "$GIVEN/set" --tokenizer "$ROOT/tests/data/tokenizers/gpt2.json" --json
	finished
	check '$d->{documents} == 2 && $d->{shown}[0]{text} eq "hello world<|endoftext|>"' "$OUT"
	check '$d->{shown}[1]{text} eq "na\x{ef}ve \x{65e5}\x{672c}<|endoftext|>"' "$OUT"
	check '$d->{most_token} == $d->{shown}[0]{head}[-1]' "$OUT"
	clean
}

@test "a text file is a document, and directories are walked" {
	mkdir -p "$GIVEN/c/d"
	printf 'one' >"$GIVEN/c/1.txt"
	printf 'three' >"$GIVEN/c/d/2.txt"
	attempt megatune data build "$GIVEN/set" "$GIVEN/c" --json
	finished
	check '$d->{documents} == 2 && $d->{tokens} == 10' "$OUT"
	attempt megatune data list "$GIVEN" --json
	finished
	check '@$d == 1 && $d->[0]{documents} == 2 && $d->[0]{tokens} == 10' "$OUT"
	attempt megatune data encode "$GIVEN/c/1.txt"
	finished
	[ "$(cat "$OUT")" = "[111,110,101]" ]
}

@test "any number of threads gives the same files" {
	for i in $(seq 1 300); do printf '{"text": "document %d of %d, with words %d"}\n' "$i" 300 $((i * i)); done >"$GIVEN/a.jsonl"
	attempt megatune data build "$GIVEN/one" "$GIVEN/a.jsonl" --threads 1
	finished
	attempt megatune data build "$GIVEN/three" "$GIVEN/a.jsonl" --threads 3
	finished
	cmp "$GIVEN/one.bin" "$GIVEN/three.bin"
	cmp "$GIVEN/one.idx" "$GIVEN/three.idx"
}

@test "bad input is one message with its place, and nothing is written" {
	printf '{"text": "fine"}\n{"txt": "not"}\n' >"$GIVEN/a.jsonl"
	attempt megatune data build set "$GIVEN/a.jsonl"
	refused "a.jsonl:2: no string \"text\""
	printf '{"text": "fine"}\n{"text": \n' >"$GIVEN/a.jsonl"
	attempt megatune data build set "$GIVEN/a.jsonl"
	refused "a.jsonl:2: not JSON"
	attempt megatune data build set "$GIVEN/none"
	refused "$GIVEN/none"
	attempt megatune data build set "$GIVEN/a.jsonl" --tokenizer "$GIVEN/none.json"
	refused "none.json"
	attempt megatune data build set "$GIVEN/a.jsonl" --end-token '<nothing>'
	refused "<nothing>"
	attempt megatune data inspect "$GIVEN/none"
	refused "none.bin"
	attempt megatune data biuld set
	refused "did you mean 'build'"
}

@test "an old set stays whole when the new one fails" {
	printf 'some text' >"$GIVEN/a.txt"
	attempt megatune data build "$GIVEN/set" "$GIVEN/a.txt"
	finished
	cp "$GIVEN/set.bin" "$GIVEN/old.bin"
	cp "$GIVEN/set.idx" "$GIVEN/old.idx"
	printf '{"text": 5}\n' >"$GIVEN/b.jsonl"
	attempt megatune data build "$GIVEN/set" "$GIVEN/b.jsonl"
	refused "b.jsonl:1"
	cmp "$GIVEN/set.bin" "$GIVEN/old.bin"
	cmp "$GIVEN/set.idx" "$GIVEN/old.idx"
}

@test "tokens are those of Hugging Face's tokenizers on random text" {
	python3 -c 'import tokenizers' 2>/dev/null || skip "the Python package tokenizers is not installed"
	attempt python3 "$ROOT/tests/compare_tokenizers.py" compare megatune 500 "$ROOT"/tests/data/tokenizers/*.json
	[ "$status" -eq 0 ]
}
