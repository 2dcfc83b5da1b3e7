#!/bin/bash
# gpu_bench.sh: how fast the kernels and the training step are on this machine's GPU. Called by `make gpu-bench`, and as `gpu-bench` in a
# bundle.
#
#   1. each kernel against its floor: its FLOPs and bytes over rates measured first (tests/gpu_bench.c)
#   2. the training step of GPT-2 124M, GPT-2 1.5B and LLaMA-3 8B's shape, bf16, as many layers as fit: tokens/s, model TFLOP/s, MFU;
#      the first of them in graphs too
#   3. PyTorch on the same shapes and layers, where it is installed (tests/peer_pytorch.py)
# Exit: 0 done, 1 something failed, 77 no GPU. LIMIT_S (240) for all. SIZE=few: tiny models. PYTHON (python3).
set -uo pipefail
LIMIT_S=${LIMIT_S:-240}
# shellcheck source=tests/gpu_support.bash
. "$(dirname "$(readlink -f "$0")")/gpu_support.bash"

status=0 done=0

show() { # STATUS: what a part printed, and what that means for all
	cat "$scratch/out"
	case $1 in
	0) done=$((done + 1)) ;;
	77) ;;
	*) status=1 ;;
	esac
}

# peer MODEL SEQUENCES TOKENS: on as many layers as ours had, against the same peak
peer() {
	local layers peak
	layers=$(sed -n 's/^megatune [^,]*, \([0-9]*\) of .*/\1/p' "$scratch/out")
	peak=$(sed -n 's/.* MFU [0-9.]* of \([0-9.]*\) TFLOP.*/\1/p' "$scratch/out")
	[ -n "$layers" ] || return 0
	if [ "$torch" != yes ]; then
		echo "pytorch  $1: $torch"
		return 0
	fi
	limited 60 "${PYTHON:-python3}" "$PEER" "$DEVICE" "$1" "$layers" "$2" "$3" "$peak"
	local ended=$?
	[ $ended -ne 77 ] || { cat "$scratch/out"; return 0; }
	show $ended
}

torch=yes
if ! command -v "${PYTHON:-python3}" >/dev/null; then
	torch="no python3 here"
elif ! "${PYTHON:-python3}" -c 'import torch' 2>/dev/null; then
	torch="PyTorch is not installed"
fi

describe_machine
limited 110 "${RUN[@]}" "$(program gpu_bench)" "$DEVICE" "$SIZE"
ended=$?
show $ended
if [ $ended -eq 77 ]; then exit 77; fi

echo
steps=("gpt2-124m 16 1024" "gpt2-1558m 4 1024" "llama3-8b 1 8192")
[ "$SIZE" != few ] || steps=("gpt-tiny 2 32" "llama-tiny 2 32")
for step in "${steps[@]}"; do
	# shellcheck disable=SC2086 # a model and two numbers
	limited 60 "${RUN[@]}" "$(program gpu_step)" "$DEVICE" $step
	show $?
	# shellcheck disable=SC2086
	peer $step
	[ "$step" = "${steps[0]}" ] || continue
	for graphs in layer pass; do
		# shellcheck disable=SC2086
		limited 60 "${RUN[@]}" "$(program gpu_step)" "$DEVICE" $step 13 $graphs
		show $?
	done
done
[ $done -gt 0 ] || status=1
exit $status
