# shellcheck disable=SC2016 # single quotes hold Perl
# export: runs as arguments of Megatron-LM and as batch scripts.

load cli_support

setup() {
	start_here
}

# value NAME: what follows --NAME in the arguments of $OUT
value() {
	json "my \$a = \$d->{arguments}; my (\$i) = grep { \$a->[\$_] eq '--$1' } 0..\$#\$a; defined \$i ? \$a->[\$i + 1] : ''" "$OUT"
}

sourced() { # FILE: the array that it defines, one word a line
	bash -c 'set -eu; source "$1"; printf "%s\n" "${ARGS[@]}"' - "$1"
}

@test "the choice of a plan becomes arguments, for every model" {
	exported=0
	for model in "$ROOT"/examples/models/*.yaml; do
		name=$(basename "$model" .yaml)
		attempt megatune plan "$name" --machine h100-80g-sxm --stack megatron-core --gpus 64 --gbs 128 --fix zero=1,mbs=1 --out "$name"
		[ "$status" -eq 0 ] || continue # the largest does not fit 64, the smallest has no such layout
		attempt megatune export "$name" --to megatron --json
		finished
		plan=$name/plan.json
		for pair in tp:tensor-model-parallel-size pp:pipeline-model-parallel-size cp:context-parallel-size mbs:micro-batch-size; do
			[ "$(value "${pair#*:}")" = "$(json "\$d->{choice}{layout}{${pair%%:*}}" "$plan")" ]
		done
		[ "$(value global-batch-size)" = 128 ]
		check 'my %n; $n{$_}++ for grep { /^--/ } @{$d->{arguments}}; !grep { $_ > 1 } values %n' "$OUT"
		check 'grep { $_ eq "--use-distributed-optimizer" } @{$d->{arguments}}' "$OUT"
		json 'join("\n", @{$d->{arguments}})' "$OUT" >"$GIVEN/words"
		attempt megatune export "$name" --to megatron --out args.sh
		finished
		bash -n args.sh
		[ "$(sourced args.sh)" = "$(cat "$GIVEN/words")" ]
		exported=$((exported + 1))
	done
	[ "$exported" -ge 10 ]
}

@test "an order of ranks finds its argument, or a note" {
	run_file() { # ORDER [CP]
		printf 'model: llama3-8b\nlayout: {tp: 2, pp: 2, cp: %s, dp: 2, mbs: 1, gbs: 32, dtype: bf16}\ntrain: {rank_order: "%s"}\n' "${2:-1}" "$1" >"$GIVEN/run.yaml"
		attempt megatune export "$GIVEN/run.yaml" --json
	}
	for order in tp-cp-ep-pp-dp 0,1,4,5,2,3,6,7; do
		run_file "$order"
		finished
		check 'grep { $_ eq "--use-tp-pp-dp-mapping" } @{$d->{arguments}}' "$OUT"
		check '!grep { /rank_order/ } @{$d->{notes}}' "$OUT"
	done
	run_file 0,1,2,3,4,5,6,7
	check '!grep { $_ eq "--use-tp-pp-dp-mapping" } @{$d->{arguments}}' "$OUT"
	run_file 7,6,5,4,3,2,1,0
	check '!grep { $_ eq "--use-tp-pp-dp-mapping" } @{$d->{arguments}}' "$OUT"
	check 'grep { /^rank_order 7,6/ } @{$d->{notes}}' "$OUT"
	run_file tp-cp-ep-pp-dp 2
	[ "$status" -eq 2 ]
	grep -q 'without experts cp 1' "$ERR"
}

@test "the order of ranks is searched, and goes into the run file" {
	attempt megatune plan llama3-8b --machine dgx-h100-eos --stack megatron-core --gpus 64 --gbs 64 --fix rank_order=tp-cp-ep-pp-dp --out "$GIVEN/near"
	finished
	grep -q 'rank_order: tp-cp-ep-pp-dp' "$GIVEN/near/run.yaml"
	check '$d->{choice}{layout}{rank_order} eq "tp-cp-ep-pp-dp"' "$GIVEN/near/plan.json"
	attempt megatune export "$GIVEN/near" --json
	finished
	check 'grep { $_ eq "--use-tp-pp-dp-mapping" } @{$d->{arguments}}' "$OUT"
	attempt megatune plan llama3-8b --machine dgx-h100-eos --stack megatron-lm-2021 --gpus 64 --gbs 64 --fix rank_order=tp-cp-ep-pp-dp
	[ "$status" -eq 2 ]
}

@test "schedules, splits and recompute find their words, or a note" {
	cat >"$GIVEN/run.yaml" <<-E
		model: llama3-8b
		layout: {tp: 2, pp: 4, dp: 2, vp: 2, schedule: zb-v, mbs: 1, gbs: 32, sp: true, first_layers: 3, dtype: bf16, recompute: full, recompute_layers: 2}
	E
	attempt megatune export "$GIVEN/run.yaml" --json
	finished
	[ "$(value pipeline-model-parallel-layout)" = "Et*3|t*4|t*4|t*4|t*5|t*4|t*4|t*4L" ]
	[ "$(value recompute-method)" = block ]
	[ "$(value recompute-num-layers)" = 2 ]
	check 'grep { /zero-bubble/ } @{$d->{notes}}' "$OUT"
	check '$d->{environment}{CUDA_DEVICE_MAX_CONNECTIONS} eq "1"' "$OUT"
	[ "$(value num-query-groups)" = 8 ]
	[ "$(value normalization)" = RMSNorm ]
	[ "$(value rotary-base)" = 500000 ]
}

@test "a list of layers by stage is Megatron's layout, whatever it says" {
	cat >"$GIVEN/run.yaml" <<-E
		model: llama3-8b
		layout: {tp: 2, pp: 4, dp: 1, mbs: 1, gbs: 32, stage_layers: "0,12,10x2", dtype: bf16}
	E
	attempt megatune export "$GIVEN/run.yaml" --json
	finished
	[ "$(value pipeline-model-parallel-layout)" = "E|t*12|t*10|t*10L" ]
	sed -i 's/pp: 4/pp: 17/; s/0,12,10x2/1,2x15,1/' "$GIVEN/run.yaml" # 34 parts, embedding and loss counted
	attempt megatune export "$GIVEN/run.yaml" --json
	finished
	check 'grep { $_ eq "--account-for-loss-in-pipeline-split" } @{$d->{arguments}}' "$OUT"
	sed -i 's/pp: 17/pp: 4/; s/1,2x15,1/8x4/' "$GIVEN/run.yaml"
	attempt megatune export "$GIVEN/run.yaml" --json
	finished
	check '!grep { /layout/ } @{$d->{arguments}}' "$OUT"
	sed -i 's/8x4/4x8/' "$GIVEN/run.yaml"
	attempt megatune export "$GIVEN/run.yaml" --json
	refused "stage_layers must name all pp * vp virtual stages and all layers"
}

@test "latent attention, modules, dense layers and routers find their words" {
	cat >"$GIVEN/run.yaml" <<-E
		model: deepseek-v3
		layout: {pp: 16, dp: 128, ep: 64, mbs: 1, gbs: 15360, seq: 4096, first_layers: 3, last_layers: 2, zero: 1, dtype: bf16}
	E
	attempt megatune export "$GIVEN/run.yaml" --json
	finished
	check 'my %w; $w{$_} = 1 for @{$d->{arguments}}; !grep { !$w{"--$_"} } qw(multi-latent-attention qk-layernorm moe-router-enable-expert-bias)' "$OUT"
	for pair in q-lora-rank:1536 kv-lora-rank:512 qk-head-dim:128 qk-pos-emb-head-dim:64 v-head-dim:128 rope-type:yarn \
		rotary-scaling-factor:40 mscale:1 mtp-num-layers:1 num-experts:256 moe-router-topk:8 moe-ffn-hidden-size:2048 ffn-hidden-size:18432 \
		moe-shared-expert-intermediate-size:2048 moe-router-score-function:sigmoid moe-router-num-groups:8 moe-router-group-topk:4 \
		moe-router-topk-scaling-factor:2.5 moe-router-load-balancing-type:seq_aux_loss moe-aux-loss-coeff:0.0001 \
		expert-model-parallel-size:64; do
		[ "$(value "${pair%%:*}")" = "${pair#*:}" ]
	done
	[ "$(value moe-layer-freq)" = "([0]*3+[1]*58)" ]
	value pipeline-model-parallel-layout | grep -q '^Et\*3|t\*4|.*|t\*4|t\*2mL$'
	attempt megatune export "$GIVEN/run.yaml" --out args.sh
	finished
	bash -n args.sh
	rm args.sh
	sed -i 's/ep: 64/ep: 48/' "$GIVEN/run.yaml"
	attempt megatune export "$GIVEN/run.yaml"
	refused "experts must be a multiple of ep"
}

@test "what Megatron-LM would not start is refused, with every rule that it breaks" {
	cat >"$GIVEN/run.yaml" <<-E
		model: llama3-8b
		layout: {tp: 3, pp: 1, dp: 2, vp: 2, mbs: 3, gbs: 32, dtype: bf16}
	E
	attempt megatune export "$GIVEN/run.yaml"
	refused "heads must be a multiple of tp"
	grep -q 'query groups' "$ERR"
	grep -q 'virtual stages need pp' "$ERR"
	grep -q 'multiple of micro-batch times dp' "$ERR"
	attempt megatune export no.yaml
	refused no.yaml
	attempt megatune export "$GIVEN/run.yaml" --to torchtitan
	refused torchtitan
}

@test "a batch script is good bash, for megatune and for Megatron-LM" {
	cat >"$GIVEN/it's a run.yaml" <<-E
		model: gpt2-124m
		layout: {dp: 16, mbs: 1, gbs: 32, dtype: bf16}
		train: {device: cuda, save_dir: ckpt, save_every: 10, resume: auto}
	E
	attempt megatune export "$GIVEN/it's a run.yaml" --to slurm --time 04:00:00 --partition gpu --out job.sh
	finished
	grep -q '^#SBATCH --nodes=2$' job.sh
	grep -q '^#SBATCH --gpus-per-node=8$' job.sh
	grep -q '^#SBATCH --signal=B:USR1@120$' job.sh
	bash -n job.sh
	attempt megatune export "$GIVEN/it's a run.yaml" --to slurm --program megatron --gpus-per-node 4 --out megatron.sh
	finished
	grep -q '^#SBATCH --nodes=4$' megatron.sh
	bash -n megatron.sh
	if command -v shellcheck >/dev/null; then
		shellcheck job.sh megatron.sh
	fi
	attempt megatune export "$GIVEN/it's a run.yaml" --to slurm --gpus-per-node 5
	[ "$status" -eq 2 ]
	grep -q 'do not fill nodes' "$ERR"
	attempt megatune export "$GIVEN/it's a run.yaml" --to slurm --partition 'a b'
	[ "$status" -eq 2 ]
}

@test "the script runs megatune on the run file where srun is" {
	cat >"$GIVEN/run.yaml" <<-E
		model: gpt-tiny
		layout: {dp: 2, mbs: 1, gbs: 8}
		train: {steps: 2}
	E
	attempt megatune export "$GIVEN/run.yaml" --to slurm --out job.sh
	finished
	mkdir -p stand-in
	printf '#!/bin/bash\nprintf "%%s\\n" "$@" >srun.words\n' >stand-in/srun # in place of Slurm's
	chmod +x stand-in/srun
	PATH=$PWD/stand-in:$PATH bash job.sh
	grep -qx megatune srun.words
	grep -qx "$GIVEN/run.yaml" srun.words
}

words() { # WORD...: all in the arguments of $OUT
	local word
	for word in "$@"; do
		check "grep { \$_ eq '$word' } @{\$d->{arguments}}" "$OUT"
	done
}

@test "a plan in 8 bits is a run file in 8 bits, and Megatron-LM's arguments for it" {
	attempt megatune plan llama3-70b --machine h100-80g-sxm --stack megatron-core --gpus 64 --gbs 64 --precision fp8 --seed 77 --fix recompute=none --out "$GIVEN/narrow"
	finished
	grep -q '^  fp8: delayed$' "$GIVEN/narrow/run.yaml"
	grep -q '^  seed: 77$' "$GIVEN/narrow/run.yaml"
	attempt megatune export "$GIVEN/narrow" --json
	finished
	words --bf16
	for pair in fp8-format:hybrid fp8-recipe:delayed fp8-margin:0 fp8-amax-history-len:16 fp8-amax-compute-algo:max; do
		[ "$(value "${pair%%:*}")" = "${pair#*:}" ]
	done
	check '!grep { /no-fp8-wgrad|layers-bf16/ } @{$d->{arguments}}' "$OUT"
	attempt megatune plan llama3-70b --machine h100-80g-sxm --stack megatron-core --gpus 64 --gbs 64 --precision fp8 \
		--fix recompute=selective,selected=norms --out "$GIVEN/again" # which Megatron-LM does with current scaling alone
	finished
	grep -q '^  fp8: current$' "$GIVEN/again/run.yaml"
	attempt megatune export "$GIVEN/again" --json
	finished
	[ "$(value fp8-recipe)" = tensorwise ]
	attempt megatune plan llama3-8b --machine b200 --stack megatron-core --gpus 16 --gbs 64 --precision mxfp8 --out "$GIVEN/finer"
	finished
	grep -q 'a run file does not have mxfp8' "$OUT"
	grep -q '^# forecast for products in mxfp8' "$GIVEN/finer/run.yaml"
	grep -q '^  fp8: none$' "$GIVEN/finer/run.yaml"
	attempt megatune export "$GIVEN/finer" --json
	finished
	check 'grep { /mxfp8.*--fp8-recipe mxfp8/ } @{$d->{notes}}' "$OUT"
	check '!grep { /^--fp8/ } @{$d->{arguments}}' "$OUT"
}

@test "every option of 8 bits finds its word, or a note" {
	narrow() { # OPTIONS
		printf 'model: llama3-8b\nlayout: {tp: 2, pp: 4, dp: 1, mbs: 1, gbs: 32, dtype: bf16, fp8_margin: 2, fp8_wgrad: false, fp8_skip_first: 1, %s}\n' \
			"$1" >"$GIVEN/run.yaml"
		attempt megatune export "$GIVEN/run.yaml" --json
	}
	narrow 'fp8: delayed, fp8_format: e4m3, fp8_amax: latest, fp8_history: 1024'
	finished
	words --no-fp8-wgrad
	for pair in fp8-format:e4m3 fp8-recipe:delayed fp8-margin:2 fp8-amax-history-len:1024 fp8-amax-compute-algo:most_recent; do
		[ "$(value "${pair%%:*}")" = "${pair#*:}" ]
	done
	check '!grep { /bf16-|layers-/ } grep { !/^--(decoder|num)-layers$/ } @{$d->{arguments}}' "$OUT"
	check 'grep { /^fp8_skip_first/ } @{$d->{notes}}' "$OUT"
	narrow 'fp8: current, fp8_skip_last: 8'
	finished
	words --first-last-layers-bf16
	for pair in fp8-recipe:tensorwise num-layers-at-start-in-bf16:1 num-layers-at-end-in-bf16:8; do
		[ "$(value "${pair%%:*}")" = "${pair#*:}" ]
	done
	check '!grep { /^--fp8-(margin|amax)/ || $_ eq "--no-fp8-wgrad" } @{$d->{arguments}}' "$OUT"
	check '(grep { /^fp8_(margin|wgrad)/ } @{$d->{notes}}) == 2' "$OUT"
	narrow 'fp8: current, fp8_skip_last: 9'
	refused "fp8_skip_last must each be at most layers / pp"
	narrow 'fp8: delayed, recompute: selective'
	refused "with fp8 delayed norms are not recomputed"
	narrow 'fp8: none'
	finished
	check '!grep { /fp8/ } @{$d->{arguments}}, @{$d->{notes}}' "$OUT"
}

@test "a plan for GPUs is a job that asks for GPUs" {
	attempt megatune plan llama3-8b --machine h100-80g-sxm --stack megatron-core --gpus 64 --gbs 64 --fix tp=8,tp_overlap=1 --out "$GIVEN/po"
	finished
	grep -q '^  device: cuda$' "$GIVEN/po/run.yaml"
	attempt megatune export "$GIVEN/po" --to slurm
	finished
	grep -q '^#SBATCH --gpus-per-node=8$' "$OUT"
	# the switch is in plan.json alone: from the folder it is told, from the file it cannot be
	attempt megatune export "$GIVEN/po" --json
	finished
	words --sequence-parallel --tp-comm-overlap
	attempt megatune export "$GIVEN/po" --to slurm --program megatron
	finished
	grep -q -- '--tp-comm-overlap$' "$OUT"
	attempt megatune export "$GIVEN/po/run.yaml" --json
	finished
	check '!grep { /tp-comm/ } @{$d->{arguments}}' "$OUT"
	sed -i 's/  sp: true/  sp: false/' "$GIVEN/po/run.yaml"
	attempt megatune export "$GIVEN/po" --json
	finished
	check '!grep { /tp-comm/ } @{$d->{arguments}}' "$OUT"
	check 'grep { /^tp_overlap/ } @{$d->{notes}}' "$OUT"
}

@test "a model's name is one line" {
	printf 'model: {name: "a\\ntouch here", layers: 2, hidden: 64, heads: 4, vocab: 300, seq: 32}\nlayout: {gbs: 1, dtype: bf16}\n' >"$GIVEN/run.yaml"
	attempt megatune export "$GIVEN/run.yaml"
	refused "character 2 of the model's name is a control character"
}

@test "options without a use are refused" {
	printf 'model: gpt-tiny\nlayout: {gbs: 2, dtype: bf16}\n' >"$GIVEN/run.yaml"
	for option in --partition=a --account=a --time=1:00 --program=megatron --gpus-per-node=4; do
		attempt megatune export "$GIVEN/run.yaml" "$option"
		refused "is of a batch script: give --to slurm too"
	done
	attempt megatune export "$GIVEN/run.yaml" --to slurm --json
	refused "no JSON"
}

@test "f16 takes its loss scale along" {
	half() { # TRAIN
		printf 'model: gpt-tiny\nlayout: {gbs: 2, dtype: f16}\ntrain: {%s}\n' "$1" >"$GIVEN/run.yaml"
		attempt megatune export "$GIVEN/run.yaml" --json
		finished
		words --fp16
		check '!grep { $_ eq "--bf16" } @{$d->{arguments}}' "$OUT"
	}
	half 'loss_scale_initial: 65536, loss_scale_window: 500, loss_scale_hysteresis: 3, loss_scale_least: 4'
	for pair in initial-loss-scale:65536 loss-scale-window:500 hysteresis:3 min-loss-scale:4 attention-backend:auto; do
		[ "$(value "${pair%%:*}")" = "${pair#*:}" ]
	done
	check '!grep { /f32|loss_scale/ } @{$d->{notes}}' "$OUT"
	half 'loss_scale: 128, loss_scale_growth: 4'
	[ "$(value loss-scale)" = 128 ]
	check '!grep { /initial/ } @{$d->{arguments}}' "$OUT"
	half 'loss_scale_growth: 4'
	check 'grep { /^loss_scale_growth/ } @{$d->{notes}}' "$OUT"
}
