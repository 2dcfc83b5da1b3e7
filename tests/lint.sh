#!/bin/bash
# lint.sh [TOOL...]: static checks of every source file; without names all of: text gcc format shell cppcheck tidy.
# A tool that is not installed is skipped and says so. Exits 1 when a check found something.
# LINT_CFLAGS: compiler flags (the Makefile gives its own); unset: those of a plain build.
set -uo pipefail
cd "$(dirname "$(readlink -f "$0")")/.." || exit 1

MOST_LINES=600
JOBS=$(nproc)
failures=0

# Files of the repository that exist, new ones too: a list of git, or of find in an unpacked archive.
list() { # PATTERN...
	if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
		git ls-files -co --exclude-standard -- "$@" | sort -u
	else
		local pattern
		for pattern in "$@"; do
			find . -path ./build -prune -o -type f -name "${pattern##*/}" -print | sed 's|^\./||'
		done | sort -u
	fi | while read -r file; do [ -f "$file" ] && printf '%s\n' "$file"; done
}

verdict() { # TOOL STATUS WHAT
	if [ "$2" -eq 0 ]; then
		echo "lint: $1: ok ($3)"
	else
		echo "lint: $1: FAILED ($3)"
		failures=$((failures + 1))
	fi
}

installed() { # TOOL PROGRAM
	command -v "$2" >/dev/null && return 0
	echo "lint: $1: skipped, $2 is not installed"
	return 1
}

mapfile -t C_FILES < <(list '*.c')
mapfile -t H_FILES < <(list '*.h')
mapfile -t SHELL_FILES < <(list '*.sh' '*.bash' '*.bats' '.ci/run')
mapfile -t TEXT_FILES < <(list '*.c' '*.h' '*.sh' '*.bash' '*.bats' '.ci/run' 'Makefile' '*.md' '*.yaml' '*.supp')

flags=${LINT_CFLAGS:-}
if [ -z "$flags" ]; then
	flags='-std=gnu11 -O2 -Wall -Wextra -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes -Wshadow -Wno-unused-parameter
		-fopenmp -fno-math-errno -fno-strict-aliasing -I. -DMT_VERSION="lint" -DMT_PREFIX="/usr/local"'
	[ -e /usr/include/hwloc.h ] && flags+=' -DMT_HAVE_HWLOC'
	[ -e /usr/include/pcre2.h ] && flags+=' -DMT_HAVE_PCRE2'
	[ -e /usr/include/utf8proc.h ] && flags+=' -DMT_HAVE_UTF8PROC'
	command -v mpicc >/dev/null && flags+=" -DMT_HAVE_MPI $(mpicc --showme:compile)"
fi
read -rd '' -a FLAGS <<<"$flags"
for i in "${!FLAGS[@]}"; do
	FLAGS[i]=${FLAGS[i]//\'/} # as make hands them over: one level of quotes of a shell
	case ${FLAGS[i]} in
	-MMD | -MP | -fsanitize=* | -fno-sanitize*) unset 'FLAGS[i]' ;;
	esac
done
FLAGS=("${FLAGS[@]}")

# Kernels that are compiled once an instruction set need the name of one, and its flag.
isa_flags() { # FILE
	case $1 in
	kernels/cpu/isa/*)
		echo "-DMT_ISA=v3 -fopenmp-simd"
		[ "$(uname -m)" = x86_64 ] && echo "-march=x86-64-v3" ;;
	esac
}

# each WORKER FILE...: runs WORKER on one file at a time, JOBS at once; its status is 0 when all were
each() {
	local worker=$1
	shift
	printf '%s\n' "$@" | xargs -P "$JOBS" -I{} "$0" --one "$worker" {}
}

one_gcc() {
	# shellcheck disable=SC2046 # several flags
	gcc "${FLAGS[@]}" $(isa_flags "$1") -Werror -fsyntax-only "$1"
}

one_tidy() {
	local before=(-include tests/analyzer.h)
	case $1 in
	base/status.c | tests/sanitizers/* | tests/cluster/*) before=() ;;
	esac
	# shellcheck disable=SC2046
	"$TIDY" --quiet "$1" -- "${before[@]}" "${FLAGS[@]}" $(isa_flags "$1") -idirafter "$OMP_HEADER" \
		-Wno-unknown-warning-option 2>/dev/null
}

check_text() {
	local found=0 file lines
	for file in "${C_FILES[@]}" "${H_FILES[@]}" "${SHELL_FILES[@]}"; do
		lines=$(wc -l <"$file")
		[ "$lines" -gt $MOST_LINES ] && { echo "$file: $lines lines, at most $MOST_LINES"; found=1; }
	done
	# The brackets keep these lines from finding themselves.
	grep -nwiE 'T[O]DO|FIXM[E]|XX[X]|placehold[e]r|not impl[e]mented|unimpl[e]mented' "${TEXT_FILES[@]}" && found=1
	# A path that begins with a folder no system has in common belongs to one machine.
	grep -nP '(?<![\w./}\]*)>:?+~-])/(home|root|Users|mnt|media|srv|scratch|work)/[\w.-]' "${TEXT_FILES[@]}" && found=1
	verdict text $found "${#TEXT_FILES[@]} files"
}

check_gcc() {
	installed gcc gcc || return 0
	each gcc "${C_FILES[@]}"
	verdict gcc $? "${#C_FILES[@]} files"
}

check_format() {
	installed format clang-format || return 0
	# The first place in each file is enough: clang-format -i mends the whole.
	clang-format --dry-run -Werror "${C_FILES[@]}" "${H_FILES[@]}" 2>&1 | awk -F: '/: (error|warning): / && !seen[$1]++'
	verdict format "${PIPESTATUS[0]}" "$((${#C_FILES[@]} + ${#H_FILES[@]})) files"
}

check_shell() {
	installed shell shellcheck || return 0
	shellcheck -x "${SHELL_FILES[@]}"
	verdict shell $? "${#SHELL_FILES[@]} files"
}

# Suppressed: what cppcheck 2.10 gets wrong (fields set in a called function, hexadecimal floats) or what is meant so here
# (options read through a byte pointer, loops up to a truth value).
check_cppcheck() {
	installed cppcheck cppcheck || return 0
	local defines=() flag
	for flag in "${FLAGS[@]}"; do
		case $flag in -D* | -I*) defines+=("$flag") ;; esac
	done
	cppcheck -q -j "$JOBS" --std=c11 --enable=warning,performance,portability --inline-suppr --error-exitcode=1 \
		--suppress=missingIncludeSystem --suppress=normalCheckLevelMaxBranches --suppress=unmatchedSuppression \
		--suppress=uninitvar --suppress=uninitStructMember --suppress=invalidPointerCast \
		--suppress=compareBoolExpressionWithInt --suppress=incorrectLogicOperator \
		--suppress=legacyUninitvar --library=tests/cppcheck.cfg \
		-DMT_ISA=v3 "${defines[@]}" "${C_FILES[@]}"
	verdict cppcheck $? "${#C_FILES[@]} files"
}

TIDY=$(command -v clang-tidy-14 || command -v clang-tidy || echo clang-tidy)
check_tidy() {
	installed tidy "$TIDY" || return 0
	# omp.h is gcc's, and only that: clang has its own of all others, and cannot read the atomics of gcc's.
	OMP_HEADER=$(mktemp -d)
	export OMP_HEADER
	trap 'rm -rf "$OMP_HEADER"' EXIT
	ln -s "$(gcc -print-file-name=include/omp.h)" "$OMP_HEADER/omp.h"
	each tidy "${C_FILES[@]}"
	verdict tidy $? "${#C_FILES[@]} files"
}

if [ "${1:-}" = --one ]; then
	"one_$2" "$3" || exit 1
	exit 0
fi
[ $# -gt 0 ] || set -- text gcc format shell cppcheck tidy
for tool in "$@"; do
	case $tool in
	text | gcc | format | shell | cppcheck | tidy) "check_$tool" ;;
	*) echo "lint: no tool $tool; there are text gcc format shell cppcheck tidy" >&2; exit 2 ;;
	esac
done
[ "$failures" -eq 0 ]
