#!/bin/bash
# cluster_tune.sh: does the tuner choose well when the network between racks changes? On a cluster of 4 hosts in 2 racks
# simulated on this machine (cluster/cluster.sh; needs root, iproute2, Open MPI, perl):
#
# 1. the probe must find 4 hosts and two classes of bandwidth between them, each within 15% of the rate that was set
#    (NICs 1 Gbit/s, uplinks 250 Mbit/s);
# 2. with uplinks of 10 Gbit/s, and again of 100 Mbit/s: a tune that runs 4 layouts, then 12 layouts really run: the 12 that
#    the same search puts first, but no more than 2 of a family (tp, pp, dp, zero, sp), so that they differ. The choice must be within
#    5% of the fastest of them, by times taken here in turn, and the fastest must differ between the two networks.
#
#   tests/cluster_tune.sh [-m MODEL] [-g GBS] [-s SEQ] [-k STEPS] [-r ROUNDS]   BUILD (build) says where the program is
# Prints a table and a last line "N passed, N failed, N skipped". Exit 0, 1 when one failed, 77 where it cannot run.
# It measures speeds: run it on a quiet machine.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

MODEL=tests/data/cluster-model.yaml GBS=16 SEQ=128 STEPS=4 ROUNDS=2
while getopts m:g:s:k:r: option; do
	case $option in
	m) MODEL=$OPTARG ;;
	g) GBS=$OPTARG ;;
	s) SEQ=$OPTARG ;;
	k) STEPS=$OPTARG ;;
	r) ROUNDS=$OPTARG ;;
	*) exit 2 ;;
	esac
done
BUILD=${BUILD:-build}
PROGRAM=$PWD/$BUILD/megatune
OUT=$BUILD/cluster-tune # hosts have a /tmp of their own: what they share lies in the checkout
export CLUSTER_PREFIX=mtt
CLUSTER=$PWD/tests/cluster/cluster.sh
passed=0 failed=0

skip() { echo "cluster_tune.sh: $1"; echo "0 passed, 0 failed, 1 skipped"; exit 77; }
[ "$(id -u)" -eq 0 ] || skip "namespaces need root"
for tool in tc mpirun perl; do command -v $tool >/dev/null || skip "no $tool"; done
[ -x "$PROGRAM" ] || skip "no $PROGRAM: run make"

verdict() { # 1|0 TEXT
	if [ "$1" = 1 ]; then passed=$((passed + 1)); echo "ok    $2"; else failed=$((failed + 1)); echo "FAIL  $2"; fi
}

down() { "$CLUSTER" down >/dev/null 2>&1 || true; }
trap down EXIT
down
rm -rf "$OUT"
mkdir -p "$OUT"

up() { # NIC UPLINK
	down
	"$CLUSTER" up -n 4 -r "$1" -R 2 -u "$2" -s 1 -c default >/dev/null || skip "this kernel or container refuses namespaces or tc"
}

json() { # FILE EXPRESSION of $d
	perl -MJSON::PP -0777 -e 'my $e = shift; our $d = decode_json(<>); print eval $e; die $@ if $@' "$2" "$1"
}

echo "== probe: NICs 1 Gbit/s, uplinks 250 Mbit/s"
up 1gbit 250mbit
"$CLUSTER" run -n 4 "$PROGRAM" probe --out "$OUT/probe.yaml" --budget-s 40 --threads 1 --json >"$OUT/probe.json" 2>"$OUT/probe.log" ||
	{ tail -5 "$OUT/probe.log"; exit 1; }
# shellcheck disable=SC2016 # Perl's
found=$(json "$OUT/probe.json" 'join "\n", $d->{hosts},
	map { sprintf "%s %.4f %d", $_->{name} =~ s/ /_/gr, $_->{bandwidth_gbps}, $_->{pairs} } @{$d->{pair_classes}}')
awk '{ print "      " $0 }' <<<"$found"
verdict "$(awk 'NR == 1 { print($1 == 4) }' <<<"$found")" "4 hosts"
verdict "$(awk 'NR > 1 { n++; g[n] = $2 } function near(x, set) { return x / set > 0.85 && x / set < 1.15 }
	END { print(n == 2 && near(g[1], 0.125) && near(g[2], 0.03125)) }' <<<"$found")" "two classes, within 15% of 0.125 and 0.0313 GB/s"

# layouts FILE: the 12 to be run, a line each: predicted rank, then the layout's options as KEY=VALUE
layouts() {
	# shellcheck disable=SC2016 # Perl's
	json "$1" '
	my (%seen, @kept);
	for my $c (sort { $a->{step_time_s} <=> $b->{step_time_s} } @{$d->{candidates}}) {
		next if $c->{recompute} ne "none" || $seen{join "/", @{$c}{qw(tp pp dp zero sp)}}++ >= 2;
		push @kept, join " ", map({ "$_=$c->{$_}" } qw(tp pp dp mbs zero)), "sp=" . ($c->{sp} ? "true" : "false");
	}
	join("\n", @kept[0 .. ($#kept < 11 ? $#kept : 11)]) . "\n"'
}

# trial NETWORK INDEX LAYOUT: seconds a step
trial() {
	local yaml=$OUT/$1-$2.yaml key
	cp "$OUT/$1/trials/01.yaml" "$yaml"
	for key in $3; do
		sed -i "s/^  ${key%=*}: .*/  ${key%=*}: ${key#*=}/" "$yaml"
	done
	sed -i "s/^  steps: .*/  steps: $((STEPS + 2))/" "$yaml"
	"$CLUSTER" run -n 4 -x OMP_NUM_THREADS=1 "$PROGRAM" train "$yaml" --warmup 2 --json >"$OUT/trial.json" 2>"$OUT/trial.log" ||
		{ echo "a trial failed: $3"; tail -3 "$OUT/trial.log"; exit 1; } >&2
	# shellcheck disable=SC2016 # Perl's
	json "$OUT/trial.json" '$d->{step_time_s}'
}

choose() { # NETWORK UPLINK: tunes, runs the 12, judges; leaves the fastest in FASTEST
	local network=$1 choice i round lines times=() line
	echo "== tune: NICs 10 Gbit/s, uplinks $2"
	up 10gbit "$2"
	"$PROGRAM" tune "$MODEL" --gpus 4 --gbs "$GBS" --seq "$SEQ" --threads 1 --launch "$CLUSTER run" --out "$OUT/$network" \
		--probe-budget-s 40 --profile-budget-s 20 --trial-steps "$STEPS" --no-report --json >"$OUT/$network.json" 2>"$OUT/$network.log" ||
		{ tail -5 "$OUT/$network.log"; exit 1; }
	# shellcheck disable=SC2016 # Perl's
	choice=$(json "$OUT/$network.json" 'my $c = $d->{candidates}[0];
		join " ", map({ "$_=$c->{$_}" } qw(tp pp dp mbs zero)), "sp=" . ($c->{sp} ? "true" : "false")')
	mapfile -t lines < <({ echo "$choice"; layouts "$OUT/$network.json" | grep -vxF "$choice" | head -n 11; })
	for ((round = 0; round < ROUNDS; round++)); do # in turn, so that the machine's moods fall on all of them
		for i in "${!lines[@]}"; do
			times[i]="${times[i]:-} $(trial "$network" "$i" "${lines[i]}")"
		done
	done
	for i in "${!lines[@]}"; do
		# shellcheck disable=SC2086 # numbers
		echo "$(printf '%s\n' ${times[i]} | sort -g | head -n 1) ${lines[i]}$([ "$i" -eq 0 ] && echo ' <- choice')"
	done | sort -g >"$OUT/$network.table"
	sed 's/^/      /' "$OUT/$network.table"
	FASTEST=$(head -n 1 "$OUT/$network.table" | cut -d' ' -f 2-7)
	line=$(awk 'NR == 1 { best = $1 } / <- choice/ { printf "%d %.1f", $1 <= 1.05 * best, 100 * ($1 / best - 1) }' "$OUT/$network.table")
	verdict "${line% *}" "uplinks $2: of ${#lines[@]} layouts run the choice is ${line#* }% behind the fastest"
}

choose fast 10gbit
fast=$FASTEST
choose slow 100mbit
verdict "$([ "$fast" != "$FASTEST" ] && echo 1 || echo 0)" "the fastest differs: $fast; $FASTEST"
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
