# shellcheck disable=SC2016 # single quotes hold Perl
# The simulated cluster: what the tests of probes, placement and acceptance stand on.

setup_file() {
	export CLUSTER_PREFIX=mtb
	export CLUSTER=$BATS_TEST_DIRNAME/cluster/cluster.sh
	ROOT_BUILD=$(cd "$BATS_TEST_DIRNAME/.." && realpath "${BUILD:-build}")
	export ROOT_BUILD
	[ "$(id -u)" -eq 0 ] || { export WHY="namespaces need root"; return 0; }
	command -v tc >/dev/null || { export WHY="iproute2 is not installed"; return 0; }
	"$CLUSTER" down >/dev/null # of a run that was killed
	"$CLUSTER" up -n 3 -r 100mbit -R 2 -u 20mbit -c default >&2 || export WHY="this kernel or container refuses namespaces or tc"
}

teardown_file() {
	[ -n "${WHY:-}" ] || "$CLUSTER" down
}

setup() {
	[ -z "${WHY:-}" ] || skip "$WHY"
	# Hosts have a /tmp of their own: what they share lies in the build folder.
	SHARED=$ROOT_BUILD/cluster-test
	rm -rf "$SHARED"
	mkdir -p "$SHARED"
}

teardown() {
	[ -n "${WHY:-}" ] || rm -rf "$SHARED"
}

# value FILE EXPRESSION: what Perl gives for the document $d
value() {
	perl -MJSON::PP -0777 -e 'my $e = shift; our $d = decode_json(<>); print eval $e; die $@ if $@' "$2" "$1"
}

@test "each host has its own name, address and /tmp" {
	local mine
	mine=$(mktemp /tmp/mtb.XXXXXX)
	for i in 0 1 2; do
		# shellcheck disable=SC2016 # expanded on the host
		run "$CLUSTER" exec mtb$i sh -c 'hostname; test -e "$0" && echo shared || echo own; grep -w "$(hostname)" /etc/hosts' "$mine"
		echo "$output"
		[ "${lines[0]}" = mtb$i ]
		[ "${lines[1]}" = own ]
		[ "${lines[2]}" = "10.77.0.$((i + 1)) mtb$i" ]
	done
	rm -f "$mine"
}

@test "hosts are spread over the racks and their NICs are shaped" {
	run "$CLUSTER" status
	echo "$output"
	[[ "${lines[0]}" == "mtb0 "*" rack0 "*"rate 100Mbit"* ]]
	[[ "${lines[2]}" == "mtb2 "*" rack1 "*"rate 100Mbit"* ]]
}

@test "nothing is added to the machine's own network" {
	run ip -o link
	[[ "$output" != *br0* ]]
	[[ "$output" != *"10.77.0."* ]]
}

@test "the rate of one host changes and no other's" {
	"$CLUSTER" rate mtb1 10mbit
	run "$CLUSTER" status
	echo "$output"
	[[ "${lines[0]}" == *"rate 100Mbit"* ]]
	[[ "${lines[1]}" == *"rate 10Mbit"* ]]
	"$CLUSTER" rate all none
	run "$CLUSTER" status
	[[ "$output" != *Mbit* ]]
}

@test "mpirun starts ranks on every host" {
	command -v mpirun >/dev/null || skip "no mpirun"
	run timeout 60 "$CLUSTER" run -n 6 --map-by slot hostname
	echo "$output"
	[ "$status" -eq 0 ]
	for i in 0 1 2; do
		[ "$(grep -c "^mtb$i$" <<<"$output")" -eq 2 ]
	done
}

# Rates are held to a factor only: tests/cluster_tune.sh holds them to 15%, on a quiet machine.
@test "the probe sees every host and that the other rack is farther" {
	command -v mpirun >/dev/null || skip "no mpirun"
	"$CLUSTER" rate all 100mbit
	timeout 120 "$CLUSTER" run -n 3 --map-by node "$ROOT_BUILD/megatune" probe --out "$SHARED/machine.yaml" --budget-s 5 --threads 1 \
		--json >"$SHARED/probe.json"
	cat "$SHARED/probe.json"
	[ "$(value "$SHARED/probe.json" '$d->{hosts}')" -eq 3 ]
	[ "$(value "$SHARED/probe.json" 'my @g = map { $_->{bandwidth_gbps} } @{$d->{pair_classes}}; @g >= 2 && $g[0] > 2 * $g[-1] ? 1 : 0')" -eq 1 ]
	grep -q 'mtb2' "$SHARED/machine.yaml"
}

@test "a tune measures, runs and chooses across the hosts" {
	command -v mpirun >/dev/null || skip "no mpirun"
	timeout 240 "$ROOT_BUILD/megatune" tune gpt-tiny --gpus 2 --gbs 2 --seq 16 --threads 1 --launch "$CLUSTER run --map-by node" \
		--out "$SHARED/tuned" --probe-budget-s 2 --profile-budget-s 2 --trial-steps 1 --top 1 --no-report --json >"$SHARED/tune.json"
	[ "$(value "$SHARED/tune.json" 'scalar grep { exists $_->{measured_step_time_s} } @{$d->{candidates}}')" -eq 1 ]
	[ -s "$SHARED/tuned/run.yaml" ]
}

@test "a host that is not there, and a second cluster of the same name, are refused" {
	run "$CLUSTER" exec nobody true
	[ "$status" -eq 1 ]
	[[ "$output" == *"no host nobody; there are: mtb0 mtb1 mtb2"* ]]
	run "$CLUSTER" up
	[ "$status" -eq 1 ]
	[[ "$output" == *"up already"* ]]
	run "$CLUSTER" status
	[ "$status" -eq 0 ]
}
