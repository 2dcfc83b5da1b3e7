#!/usr/bin/env bats
# What nvcc made of the kernels: the wide forms of those that are bound by memory access it 16 bytes at a time. Needs no GPU, but CUDA's
# cuobjdump and nvdisasm; skipped without them.

setup() {
	ROOT=$(cd "$BATS_TEST_DIRNAME/.." && pwd)
	BUILD=${BUILD:-build}
	case $BUILD in /*) OBJECTS=$BUILD/obj/kernels/cuda ;; *) OBJECTS=$ROOT/$BUILD/obj/kernels/cuda ;; esac
	export PATH=$PATH:${CUDA_HOME:-/usr/local/cuda}/bin
	[ -f "$OBJECTS/activation.cu.pic.o" ] || skip "built without nvcc"
	{ command -v cuobjdump && command -v nvdisasm; } >/dev/null || skip "no cuobjdump or no nvdisasm"
	command -v c++filt >/dev/null || skip "no c++filt"
	ARCH=$(cuobjdump --list-elf "$OBJECTS/activation.cu.pic.o" | grep -o 'sm_[0-9]*a\?' | grep -m 1 -E 'sm_(90a|80|100|120)') || skip "built for none of the known architectures"
}

# accesses FILE: a line a kernel: 128-bit loads, 128-bit stores, its name
accesses() {
	cuobjdump -sass -arch "$ARCH" "$OBJECTS/$1.cu.pic.o" | awk '
		/Function :/ { if (name) print loads, stores, name; name = $3; loads = stores = 0 }
		/LDG[A-Z0-9.]*\.128/ { loads++ }
		/STG[A-Z0-9.]*\.128/ { stores++ }
		END { if (name) print loads, stores, name }' | c++filt
}

# wide FILE PATTERN LOADS STORES COUNT: at least COUNT kernels match, each with as many 128-bit accesses at least
wide() {
	accesses "$1" | grep -E "^[0-9]+ [0-9]+ .*$2" >"$BATS_TEST_TMPDIR/kernels" || { echo "$1: no kernel matches $2"; return 1; }
	cat "$BATS_TEST_TMPDIR/kernels"
	awk -v loads="$3" -v stores="$4" -v count="$5" '
		$1 < loads || $2 < stores { bad++; print "not 128 bits wide: " $0 }
		END { exit bad || NR < count }' "$BATS_TEST_TMPDIR/kernels"
}

@test "activations read and write 128 bits at a time" {
	wide activation '(gelu|swiglu)_(for|back)ward<(__nv_bfloat16, 8|float, 4)>' 1 1 8
}

@test "norms read and write 128 bits at a time" {
	wide norm ' norm_(for|back)ward<(__nv_bfloat16|float), ' 4 2 6
}

@test "sums, column sums, casts, copies and fills too" {
	wide move 'add_all<(__nv_bfloat16, 8|float, 4)>' 2 1 2
	wide move 'sum_rows<(__nv_bfloat16, 8|float, 4)>' 1 0 2
	wide move 'cast_wide<(__nv_bfloat16, float|float, __nv_bfloat16)>' 1 1 2
	wide move 'copy_rows<uint4>' 1 1 1
	wide move 'fill_words<uint4>' 0 1 1
}

@test "rotary positions too" {
	wide rope 'rotate<(__nv_bfloat16, 8|float, 4)>' 1 1 2
}

@test "AdamW reads and writes master weights, moments and gradients so, whatever the parameters' type" {
	wide optimizer 'adamw_step<(__nv_bfloat16|__half)>' 4 3 2
	wide optimizer 'adamw_step<float>' 4 4 1
}
