#!/bin/bash
# cluster_place.sh: are ranks put where links are fast? On a cluster of 4 hosts in 2 racks simulated on this machine
# (cluster/cluster.sh; needs root, iproute2, Open MPI, perl), two ranks a host, NICs 1 Gbit/s, uplinks between racks 100 Mbit/s, the
# hosts handed to the launcher in an order that alternates between the racks:
#
# 1. the probe measures every pair; plan searches a layout and writes its rank_order;
# 2. that run is trained as launched, placed, and in 20 random orders, a few steps each; then the placed one and the best three of
#    the others twice more in turn, so that the machine's moods fall on all of them.
#
# The placed job must be at least as fast as the best random order, the least of its step times counted, 2% for what repetitions of
# one order differ by; and faster than as launched.
#
# -r: rehearsed with real links (docs/rehearsal.md) in place of trained: kernels take the machine file's time and no processor, so the
# links decide, not who gets one of this machine's processors.
#
#   tests/cluster_place.sh [-r] [-m MODEL] [-g GBS] [-s SEQ] [-k STEPS] [-n ORDERS]   BUILD (build) says where the program is
# Prints a table and a last line "N passed, N failed, N skipped". Exit 0, 1 when one failed, 77 where it cannot run.
# It measures speeds: run it on a quiet machine.
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

MODEL=tests/data/cluster-model.yaml GBS=16 SEQ=128 STEPS=2 ORDERS=20 REHEARSED=
while getopts rm:g:s:k:n: option; do
	case $option in
	r) REHEARSED=yes ;;
	m) MODEL=$OPTARG ;;
	g) GBS=$OPTARG ;;
	s) SEQ=$OPTARG ;;
	k) STEPS=$OPTARG ;;
	n) ORDERS=$OPTARG ;;
	*) exit 2 ;;
	esac
done
BUILD=${BUILD:-build}
PROGRAM=$(readlink -f "$BUILD")/megatune
OUT=$PWD/build/cluster-place # hosts have a /tmp of their own: what they share lies in the checkout
export CLUSTER_PREFIX=mtp
CLUSTER=$PWD/tests/cluster/cluster.sh
passed=0 failed=0

skip() { echo "cluster_place.sh: $1"; echo "0 passed, 0 failed, 1 skipped"; exit 77; }
[ "$(id -u)" -eq 0 ] || skip "namespaces need root"
for tool in tc mpirun perl; do command -v $tool >/dev/null || skip "no $tool"; done
[ -x "$PROGRAM" ] || skip "no $PROGRAM: run make"

verdict() { # 1|0 TEXT
	if [ "$1" = 1 ]; then passed=$((passed + 1)); echo "ok    $2"; else failed=$((failed + 1)); echo "FAIL  $2"; fi
}

json() { # FILE EXPRESSION of $d
	perl -MJSON::PP -0777 -e 'my $e = shift; our $d = decode_json(<>); print eval $e; die $@ if $@' "$2" "$1"
}

down() { "$CLUSTER" down >/dev/null 2>&1 || true; }
trap down EXIT
down
rm -rf "$OUT"
mkdir -p "$OUT"
"$CLUSTER" up -n 4 -r 1gbit -R 2 -u 100mbit -s 2 -c default >/dev/null || skip "this kernel or container refuses namespaces or tc"
# Hosts 0 and 1 are in rack 0, 2 and 3 in rack 1.
hosts=/run/$CLUSTER_PREFIX-cluster/hostfile
for i in 0 2 1 3; do grep "^$CLUSTER_PREFIX$i " "$hosts"; done >"$OUT/hostfile"
cp "$OUT/hostfile" "$hosts"

"$CLUSTER" run -n 8 "$PROGRAM" probe --out "$OUT/machine.yaml" --budget-s 20 --threads 1 --json >"$OUT/probe.json" 2>"$OUT/probe.log" ||
	{ tail -5 "$OUT/probe.log"; exit 1; }
"$PROGRAM" plan "$MODEL" --gpus 8 --gbs "$GBS" --seq "$SEQ" --threads 1 --machine "$OUT/machine.yaml" --out "$OUT/plan" --no-report --json \
	>"$OUT/plan.json" 2>"$OUT/plan.log" || { tail -5 "$OUT/plan.log"; exit 1; }
# shellcheck disable=SC2016 # Perl's
placed=$(json "$OUT/plan.json" '$d->{placement}{rank_order} // ""')
# shellcheck disable=SC2016 # Perl's
json "$OUT/plan.json" 'my $p = $d->{placement}; my $c = $d->{candidates}[0];
	sprintf "layout tp%d pp%d dp%d mbs%d zero%d: communication of a step %.3f s as launched, %.3f s placed by prediction\n",
	@{$c}{qw(tp pp dp mbs zero)}, $p->{launcher_s} // 0, $p->{placed_s} // 0'
[ -n "$placed" ] || { echo "the plan sees no gain in another order"; verdict 0 "a placement"; exit 1; }

# trial ORDER: the least seconds of a step
trial() {
	local command=(train "$OUT/plan/run.yaml" --rank_order "$1" --steps $((STEPS + 1)) --warmup 1 --peak_tflops 1)
	[ -z "$REHEARSED" ] ||
		command=(rehearse "$OUT/plan/run.yaml" --rank_order "$1" --timed_steps "$STEPS" --machine "$OUT/machine.yaml" --links real)
	"$CLUSTER" run -n 8 -x OMP_NUM_THREADS=1 "$PROGRAM" "${command[@]}" --json >"$OUT/trial.json" 2>"$OUT/trial.log" ||
		{ echo "a trial failed: $1"; tail -3 "$OUT/trial.log"; exit 1; } >&2
	# shellcheck disable=SC2016 # Perl's
	json "$OUT/trial.json" '$d->{rehearsed_step_s} // (sort { $a <=> $b } @{$d->{step_times_s}})[0]'
}

{
	echo "launched 0,1,2,3,4,5,6,7"
	echo "placed $placed"
	perl -MList::Util=shuffle -e 'srand 7; print "random ", join(",", shuffle(0 .. 7)), "\n" for 1 .. shift' "$ORDERS"
} >"$OUT/orders"
while read -r name order; do
	echo "$(trial "$order" </dev/null) $name $order"
done <"$OUT/orders" >"$OUT/times"
{ grep placed "$OUT/times"; grep -v placed "$OUT/times" | sort -g | head -n 3; } >"$OUT/again"
for _ in 1 2; do
	while read -r _ name order; do
		echo "$(trial "$order" </dev/null) $name $order"
	done <"$OUT/again" >>"$OUT/times"
done
sort -g "$OUT/times" | awk '!seen[$3]++ { printf "      %.4f s  %-8s %s\n", $1, $2, $3 }'
sort -g "$OUT/times" | awk '!least[$2] { least[$2] = $1 }
	END { printf "%d %.3f %d %.3f\n", least["placed"] <= 1.02 * least["random"], least["placed"] / least["random"],
		least["placed"] < least["launched"], least["launched"] / least["placed"] }' >"$OUT/verdict"
read -r ok ratio faster gain <"$OUT/verdict"
verdict "$ok" "placed takes $ratio of the best of $ORDERS random orders"
verdict "$faster" "placed is $gain times as fast as launched"
echo "$passed passed, $failed failed, 0 skipped"
[ "$failed" -eq 0 ]
