#!/bin/bash
# soak.sh: trains a model on text on 2 ranks while one of them is killed with -9 again and again, and shows that nothing is lost.
#
#   tests/soak.sh [OUT]            OUT (build/soak): checkpoints, a log of every start, losses.tsv, losses.svg
# DURATION_S (3600) of training, a kill every KILL_S (120), MODEL (gpt2-124m), TEXT (/usr/share/common-licenses), SAVE_EVERY (10) steps,
# SEQ (128), CONTROL (20): steps of a run that nobody kills, to compare with.
#
# What must hold: every start but the last ends by a kill; steps done twice print the same loss and norm, digit for digit; no step is
# missing from 0 to the last; the first CONTROL steps are those of the run that nobody killed; the last checkpoint is whole.
# Prints a table and "N passed, N failed, N skipped". Exit 0, 1 when one failed, 77 where it cannot run.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."
OUT=${1:-build/soak} BUILD=${BUILD:-build}
DURATION_S=${DURATION_S:-3600} KILL_S=${KILL_S:-120} MODEL=${MODEL:-gpt2-124m} TEXT=${TEXT:-/usr/share/common-licenses}
SAVE_EVERY=${SAVE_EVERY:-10} SEQ=${SEQ:-128} CONTROL=${CONTROL:-20}
command -v mpirun >/dev/null || { echo "skipped: no mpirun"; exit 77; }
export OMP_NUM_THREADS=1 OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1

rm -rf "$OUT"
mkdir -p "$OUT"
cat >"$OUT/run.yaml" <<YAML
model: $MODEL
layout: {dp: 2, zero: 1, mbs: 2, gbs: 4, seq: $SEQ, dtype: bf16, threads: 1}
train: {steps: 1000000, lr: 3e-4, min_lr: 3e-5, warmup_steps: 50, decay_steps: 2000}
data: {path: $TEXT}
YAML
RUN=(mpirun --oversubscribe --bind-to none -n 2 "$BUILD/megatune" train "$OUT/run.yaml")

# losses FILE: "step loss norm", as printed; a line that a kill cut short has no norm and is left out
losses() {
	sed -n 's/^step *\([0-9]*\) *loss \([0-9.]*\) *norm *\([0-9.]*\) .*/\1\t\2\t\3/p' "$1"
}

passed=0 failed=0
verdict() { # WHAT CONDITION...
	local what=$1
	shift
	if "$@"; then
		passed=$((passed + 1)) && echo "ok    $what"
	else
		failed=$((failed + 1)) && echo "FAIL  $what"
	fi
}

"${RUN[@]}" --steps "$CONTROL" --warmup 0 >"$OUT/control.log" 2>"$OUT/control.err"
losses "$OUT/control.log" >"$OUT/control.tsv"

end=$(($(date +%s) + DURATION_S)) starts=0 kills=0 well=0
while [ "$(date +%s)" -lt "$end" ]; do
	log=$OUT/start-$(printf %03d "$starts").log
	starts=$((starts + 1))
	"${RUN[@]}" --save_dir "$OUT/save" --save_every "$SAVE_EVERY" >"$log" 2>"${log%.log}.err" &
	pid=$!
	left=$((end - $(date +%s)))
	if [ "$left" -le "$KILL_S" ]; then
		sleep "$left"
		kill -TERM "$(pgrep -P $pid megatune | head -n 1)" # one rank is enough: all agree at the end of a step
		wait $pid && well=1
		break
	fi
	sleep "$KILL_S"
	rank=$(pgrep -P $pid megatune | sed -n "$((RANDOM % 2 + 1))p")
	[ -z "$rank" ] || kill -9 "$rank" 2>/dev/null || true
	wait $pid || kills=$((kills + 1))
done

for log in "$OUT"/start-*.log; do losses "$log"; done | sort -n >"$OUT/all.tsv"
sort -n -u "$OUT/all.tsv" >"$OUT/losses.tsv"
done_steps=$(wc -l <"$OUT/all.tsv") steps=$(wc -l <"$OUT/losses.tsv") last=$(tail -n 1 "$OUT/losses.tsv" | cut -f 1)
first_loss=$(head -n 1 "$OUT/losses.tsv" | cut -f 2) last_loss=$(tail -n 1 "$OUT/losses.tsv" | cut -f 2)
echo "$MODEL, 2 ranks, $DURATION_S s: $starts starts, $kills kills, steps 0 to $last, $((done_steps - steps)) of them done twice, loss $first_loss to $last_loss"
verdict "every start but the last ended by a kill" [ "$kills" -eq $((starts - 1)) ]
verdict "the last was stopped by SIGTERM, saved, and ended with 0" [ "$well" -eq 1 ]
verdict "steps done twice have the same loss and norm" [ "$(cut -f 1 "$OUT/losses.tsv" | uniq -d | wc -l)" -eq 0 ]
verdict "no step is missing" [ "$steps" -eq $((last + 1)) ]
verdict "the first $CONTROL steps are those of a run that nobody killed" cmp -s "$OUT/control.tsv" <(head -n "$CONTROL" "$OUT/losses.tsv")
verdict "the last checkpoint is whole" "$BUILD/megatune" ckpt verify "$OUT/save"
if command -v gnuplot >/dev/null; then
	gnuplot <<PLOT
set terminal svg size 720,360 font 'sans-serif,13'
set output '$OUT/losses.svg'
set xlabel 'step'
set ylabel 'loss'
set grid ytics lc rgb '#dddddd'
set key off
plot '$OUT/losses.tsv' using 1:2 with lines lw 1.5 lc rgb '#1f77b4' title 'loss'
PLOT
fi
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
