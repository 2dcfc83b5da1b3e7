#!/bin/bash
# layers.sh [DIR]: checks the include rules of the rooms in DIR (default: the repository). Prints each violation as
# file:line: what is wrong, and exits 1 when there is one.
#
# 1. An include names its room, "room/file.h", and goes down: tuner > reports, probes, profiles, engine > comm > kernels > base.
# 2. Rooms of one floor do not include each other, but for the descriptions engine/model.h and engine/layout.h.
# 3. MPI appears in comm/ only: its header and calls of its functions.
# 4. CUDA, NCCL and CUPTI headers appear in kernels/cuda/, comm/nccl* and profiles/cupti* only.
# tests/ stands above all rooms and may include any of them.
set -euo pipefail
cd "${1:-$(dirname "$(readlink -f "$0")")/..}"

ROOMS=(base kernels comm engine profiles probes reports tuner)

present=()
for room in "${ROOMS[@]}"; do
	[ -d "$room" ] && present+=("$room")
done
[ ${#present[@]} -gt 0 ] || { echo "layers: no room in $PWD" >&2; exit 2; }

mapfile -t files < <(find "${present[@]}" -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' | sort)
[ ${#files[@]} -gt 0 ] || { echo "layers: 0 files, no violation"; exit 0; }

# File names are arguments of awk: a path of ours never holds '='.
exec awk '
BEGIN {
	split("base 0 kernels 1 comm 2 engine 3 profiles 3 probes 3 reports 3 tuner 4", pairs, " ")
	for (i = 1; i in pairs; i += 2)
		floor[pairs[i]] = pairs[i + 1]
	shared["engine/model.h"] = shared["engine/layout.h"] = 1
}
function report(what) { printf "%s:%d: %s\n", FILENAME, FNR, what; violations++ }
function room_of(path) { return path ~ /\// ? substr(path, 1, index(path, "/") - 1) : "" }
FNR == 1 { room = room_of(FILENAME); cuda_file = FILENAME ~ /^(kernels\/cuda\/|comm\/nccl|profiles\/cupti)/ }

/^[ \t]*#[ \t]*include[ \t]*"/ {
	split($0, quoted, "\"")
	target = quoted[2]
	to = room_of(target)
	if (!(to in floor))
		report("\"" target "\" does not name its room, as in \"" room "/" target "\"")
	else if (floor[to] > floor[room])
		report(room " includes \"" target "\": includes go down, and " to " is above " room)
	else if (floor[to] == floor[room] && to != room && !(target in shared))
		report(room " includes \"" target "\": rooms of one floor share only engine/model.h and engine/layout.h")
}
/^[ \t]*#[ \t]*include[ \t]*[<"]mpi\.h/ || /(^|[^A-Za-z0-9_"])P?MPI_[A-Z][a-z]+[A-Za-z0-9_]*[ \t]*\(/ {
	if (room != "comm")
		report("MPI outside of comm/")
}
/^[ \t]*#[ \t]*include[ \t]*[<"](cuda|cublas|cudnn|cupti|nccl|nvml|nvrtc|nvtx)/ {
	if (!cuda_file)
		report("CUDA outside of kernels/cuda/, comm/nccl* and profiles/cupti*")
}
END {
	printf "layers: %d files, %s\n", ARGC - 1, violations ? violations " violations" : "no violation"
	exit violations > 0
}' "${files[@]}"
