# shellcheck shell=bash
# What the tests of the command line share. Every test runs in an empty directory, with an empty home, on generous limits.
#
#   attempt CMD...        runs it; its status in $status, its output in the files $OUT and $ERR
#   ranks N               fills MPIRUN with what starts N ranks; skips the test where there is none
#   json EXPRESSION FILE  prints what a Perl expression gives for the document $d in FILE
#   check ...             as json, and fails unless the value is true
# Perl in JSON_BEFORE, such as functions, stands before each expression.

ROOT=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
BUILD=${BUILD:-build}
case $BUILD in
/*) BIN=$BUILD ;;
*) BIN=$ROOT/$BUILD ;;
esac
LIMIT_S=${LIMIT_S:-120}

start_here() {
	perl -MJSON::PP -e 1 2>/dev/null || skip "no perl with JSON::PP to read JSON"
	[ -x "$BIN/megatune" ] || { echo "no $BIN/megatune: run make"; return 1; }
	OUT=$BATS_TEST_TMPDIR/out ERR=$BATS_TEST_TMPDIR/err
	GIVEN=$BATS_TEST_TMPDIR/given # files that a test writes for the program
	export HOME=$BATS_TEST_TMPDIR/home MEGATUNE_DATA=$ROOT/examples OMP_NUM_THREADS=1
	export PATH=$BIN:$PATH
	unset NO_COLOR SLURM_JOB_ID "${!OMPI_@}" "${!PMIX_@}"
	mkdir -p "$HOME" "$GIVEN" "$BATS_TEST_TMPDIR/here"
	cd "$BATS_TEST_TMPDIR/here" || return 1
}

attempt() {
	status=0
	timeout -k 10 "$LIMIT_S" "$@" >"$OUT" 2>"$ERR" </dev/null || status=$?
	echo "\$ $* (exit $status)"
	head -c 3000 "$OUT"
	head -c 3000 "$ERR"
}

# finished: the last attempt ended well and told no error
finished() {
	[ "$status" -eq 0 ] && ! grep -q 'error:' "$ERR"
}

# refused TEXT: the last attempt ended as bad input does: one message with TEXT, no output, nothing written
refused() {
	[ "$status" -eq 2 ] || { echo "exit $status, not 2"; return 1; }
	[ ! -s "$OUT" ] || { echo "something on stdout"; return 1; }
	[ "$(grep -c 'error:' "$ERR")" -eq 1 ] || { echo "$(grep -c 'error:' "$ERR") messages"; return 1; }
	grep 'error:' "$ERR" | grep -qF -- "$1" || { echo "no '$1' in the message"; return 1; }
	clean
}

# clean: nothing was written to the directory or the home
clean() {
	[ -z "$(find . "$HOME" -mindepth 1)" ] || { echo "written:"; find . "$HOME" -mindepth 1; return 1; }
}

ranks() {
	command -v mpirun >/dev/null || skip "no mpirun"
	MPIRUN=(mpirun -n "$1")
	if mpirun --version 2>/dev/null | grep -q 'Open MPI'; then
		MPIRUN+=(--oversubscribe --bind-to none --mca pml ob1 --mca btl "self,vader" --mca mpi_yield_when_idle 1)
		[ "$(id -u)" -ne 0 ] || MPIRUN+=(--allow-run-as-root)
	fi
}

json() {
	local before=${JSON_BEFORE:-}
	set -- "$before $1" "${@:2}"
	perl -MJSON::PP -0777 -e '
		use strict; use warnings;
		my $expression = shift;
		# the documents of plans have megabytes: XS, where it is, reads them a hundred times as fast
		our $d = (eval { require JSON::XS; 1 } ? \&JSON::XS::decode_json : \&decode_json)->(scalar <>);
		# the JSON types: what encodes without quotes is a number
		sub is_number { return defined $_[0] && !ref $_[0] && JSON::PP->new->allow_nonref->encode($_[0]) !~ /^"/ }
		sub is_count { return is_number($_[0]) && $_[0] =~ /^\d+$/ }
		sub is_text { return defined $_[0] && !ref $_[0] && !is_number($_[0]) }
		sub is_bool { return JSON::PP::is_bool($_[0]) }
		sub sum { my $s = 0; $s += $_ for @_; return $s }
		my $value = eval "no strict; $expression";
		die $@ if $@;
		print ref $value && !is_bool($value) ? encode_json($value) : defined $value ? $value : "null", "\n";
	' "$@"
}

check() {
	local value
	value=$(json "$@") || return 1
	case $value in
	'' | 0 | null | false) echo "not true in $2: $1"; return 1 ;;
	esac
}

# run_file NAME LAYOUT TRAIN: a run of gpt-tiny, written to $GIVEN/NAME
run_file() {
	printf 'model: gpt-tiny\nlayout: {gbs: 4, seq: 32, threads: 1%s}\ntrain: {steps: 4, peak_tflops: 1%s}\n' \
		"${2:+, $2}" "${3:+, $3}" >"$GIVEN/$1"
}
