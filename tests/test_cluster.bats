# The simulated cluster: what the tests of probes, placement and acceptance stand on.

setup_file() {
	export CLUSTER_PREFIX=mtb
	export CLUSTER=$BATS_TEST_DIRNAME/cluster/cluster.sh
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
