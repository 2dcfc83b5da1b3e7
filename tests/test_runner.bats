# run.sh counts what ran, and never takes a program that died, hung or said nothing for a pass.

setup() {
	export BUILD=build TEST_LIMIT_S=20
	unset TEST_TOTAL_S TEST_JOBS
	TREE=$BATS_TEST_TMPDIR/tree
	mkdir -p "$TREE/tests/sanitizers" "$TREE/build/tests"
	cp "$BATS_TEST_DIRNAME/run.sh" "$TREE/tests/"
}

# program NAME TEXT: a source with that name and a "built" program that runs TEXT
program() {
	echo "/* ${3:-} */" >"$TREE/tests/$1.c"
	printf '#!/bin/sh\n%s\n' "$2" >"$TREE/build/tests/$1"
	chmod +x "$TREE/build/tests/$1"
}

# cmocka's closing lines: PASSED FAILED SKIPPED
closing() {
	echo "echo '[==========] $(($1 + $2 + $3)) test(s) run.'; echo '[  PASSED  ] $1 test(s).';
		[ $3 -eq 0 ] || echo '[  SKIPPED ] $3 test(s), listed below:'; [ $2 -eq 0 ] || echo '[  FAILED  ] $2 test(s), listed below:'; exit $2"
}

last() {
	echo "$output"
	[ "${lines[-1]}" = "$1" ]
}

@test "counts of cmocka programs are added up" {
	program test_a "$(closing 3 0 1)"
	program test_b "$(closing 2 0 0)"
	run "$TREE/tests/run.sh"
	last "5 passed, 0 failed, 1 skipped"
	[ "$status" -eq 0 ]
}

@test "programs run at once are told in the order of their names, each with its own output" {
	program test_a "sleep 0.3; echo of a; $(closing 1 1 0)"
	program test_b "sleep 0.1; $(closing 2 0 0)"
	program test_c "echo of c; $(closing 0 1 0)"
	TEST_JOBS=2 run "$TREE/tests/run.sh"
	last "3 passed, 2 failed, 0 skipped"
	[[ "$output" == *"of a"*FAIL*test_a*ok*test_b*"of c"*FAIL*test_c*"failed: test_a"*"failed: test_c"* ]]
}

@test "a failure fails the run and its output is shown" {
	program test_a "echo why it failed; $(closing 1 2 0)"
	run "$TREE/tests/run.sh"
	last "1 passed, 2 failed, 0 skipped"
	[ "$status" -eq 1 ]
	[[ "$output" == *"why it failed"* ]]
	[[ "$output" == *"failed: test_a"* ]]
}

@test "a program that dies after its tests passed is a failure" {
	program test_a "echo '[  PASSED  ] 4 test(s).'; kill -SEGV \$\$"
	run "$TREE/tests/run.sh"
	last "4 passed, 1 failed, 0 skipped"
	[ "$status" -eq 1 ]
}

@test "a program that says nothing, or was not built, is a failure" {
	program test_a "exit 0"
	program test_b "exit 0"
	rm "$TREE/build/tests/test_b"
	run "$TREE/tests/run.sh"
	last "0 passed, 2 failed, 0 skipped"
	[ "$status" -eq 1 ]
}

@test "a program that outlives its limit is killed and is a failure" {
	program test_a "sleep 60"
	TEST_LIMIT_S=1 run "$TREE/tests/run.sh"
	last "0 passed, 1 failed, 0 skipped"
	[[ "$output" == *"killed: it ran longer than 1 s"* ]]
}

@test "what has not run when the time for all is over is a failure" {
	program test_a "sleep 60"
	program test_b "$(closing 1 0 0)"
	TEST_JOBS=1 TEST_TOTAL_S=1 run "$TREE/tests/run.sh"
	last "0 passed, 2 failed, 0 skipped"
	[[ "$output" == *"not run"* ]]
}

@test "no test at all is no success" {
	run "$TREE/tests/run.sh"
	last "0 passed, 0 failed, 0 skipped"
	[ "$status" -eq 1 ]
}

@test "a program left over without a source does not run" {
	program test_a "$(closing 1 0 0)"
	program test_old "$(closing 0 1 0)"
	rm "$TREE/tests/test_old.c"
	run "$TREE/tests/run.sh"
	last "1 passed, 0 failed, 0 skipped"
}

@test "an MPI program runs once for each number of ranks in its source" {
	command -v mpirun >/dev/null || skip "no mpirun"
	# shellcheck disable=SC2016 # expanded by the program
	program mpi_a '[ "${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}" -gt 0 ] || echo "2 passed, 0 failed, 1 skipped"' "ranks: 1 2"
	program mpi_b "echo 1 passed, 0 failed, 0 skipped"
	run "$TREE/tests/run.sh"
	last "4 passed, 1 failed, 2 skipped"
	[[ "$output" == *"mpi_a -n 2"* ]]
	[[ "$output" == *"tests/mpi_b.c has no line"* ]]
}

@test "an MPI program that was not built is skipped with its reason" {
	program test_a "$(closing 1 0 0)"
	program mpi_a "exit 0" "ranks: 1"
	rm "$TREE/build/tests/mpi_a"
	run "$TREE/tests/run.sh"
	last "1 passed, 0 failed, 1 skipped"
	[[ "$output" == *"built without MPI"* ]]
}

@test "bats files are counted, skipped tests with their reason" {
	printf '@test "good" {\n true\n}\n@test "absent" {\n skip "no such thing"\n}\n@test "bad" {\n false\n}\n' >"$TREE/tests/a.bats"
	run "$TREE/tests/run.sh"
	last "1 passed, 1 failed, 1 skipped"
	[[ "$output" == *"no such thing"* ]]
}

@test "the caller's settings do not reach the tests" {
	program test_a "[ -z \"\$OMP_NUM_THREADS\$OMPI_MCA_btl\" ] && $(closing 1 0 0)"
	OMP_NUM_THREADS=7 OMPI_MCA_btl=tcp run "$TREE/tests/run.sh"
	last "1 passed, 0 failed, 0 skipped"
}
