# layers.sh finds each kind of violation, and only violations.

setup() {
	LAYERS=$BATS_TEST_DIRNAME/layers.sh
	TREE=$BATS_TEST_TMPDIR/tree
	mkdir -p "$TREE"/{base,kernels/cuda,comm,engine,profiles,probes,reports,tuner}
	cd "$TREE" || return 1
	echo '#include "base/status.h"' >kernels/op.h
	echo '#include "kernels/op.h"' >comm/comm.h
	printf '#include <mpi.h>\nint f(void) { return MPI_Barrier(0); }\n' >comm/mpi.c
	printf '#include "engine/model.h"\n#include "engine/layout.h"\n' >reports/page.c
	printf '#include "probes/probe.h"\n#include "reports/report.h"\n' >tuner/tune.c
	echo '#include <cuda_runtime.h>' >kernels/cuda/device.cu
	echo '#include <nccl.h>' >comm/nccl_group.c
}

# refuse FILE LINE TEXT: layers.sh fails, names file:line, and says why
refuse() {
	run "$LAYERS" "$TREE"
	echo "$output"
	[ "$status" -eq 1 ]
	[[ "$output" == *"$1:$2: "*"$3"* ]]
	[[ "$output" == *"1 violations"* ]]
}

@test "a tree that keeps the rules passes" {
	run "$LAYERS" "$TREE"
	echo "$output"
	[ "$status" -eq 0 ]
	[[ "$output" == *"no violation"* ]]
}

@test "an include that goes up is found" {
	printf '\n#include "comm/comm.h"\n' >kernels/device.c
	refuse kernels/device.c 2 "comm is above kernels"
}

@test "an include that goes up is found however it is spaced" {
	printf ' #  include   "tuner/card.h"\n' >base/log.c
	refuse base/log.c 1 "tuner is above base"
}

@test "an include across one floor is found" {
	echo '#include "profiles/store.h"' >engine/train.c
	refuse engine/train.c 1 "rooms of one floor"
}

@test "an include without its room is found" {
	echo '#include "store.h"' >profiles/store.c
	refuse profiles/store.c 1 "does not name its room"
}

@test "MPI outside of comm is found, the header and the calls" {
	echo '#include <mpi.h>' >probes/link.c
	refuse probes/link.c 1 "MPI outside"
	printf 'int f(void)\n{\n\treturn MPI_Init(0, 0);\n}\n' >probes/link.c
	refuse probes/link.c 3 "MPI outside"
}

@test "a text about MPI is no violation" {
	printf '/* ends with MPI_Abort */\nconst char *s = "MPI_Abort";\n' >engine/train.c
	run "$LAYERS" "$TREE"
	echo "$output"
	[ "$status" -eq 0 ]
}

@test "CUDA outside of its files is found" {
	echo '#include <cupti.h>' >profiles/measure.c
	refuse profiles/measure.c 1 "CUDA outside"
}

@test "every violation is listed" {
	echo '#include "comm/comm.h"' >base/a.c
	echo '#include "engine/model.h"' >base/b.c
	run "$LAYERS" "$TREE"
	[ "$status" -eq 1 ]
	[[ "$output" == *base/a.c:1:*base/b.c:1:*"2 violations"* ]]
}

@test "the rooms of this repository keep the rules" {
	run "$LAYERS"
	echo "$output"
	[ "$status" -eq 0 ]
}
