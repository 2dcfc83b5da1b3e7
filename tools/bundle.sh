#!/bin/bash
# bundle.sh BUILD: makes BUILD/bundle, a folder that runs where it is copied to: the program, its plugins, and the shared libraries
# they need other than libc's and CUDA's. Called by `make bundle`.
#
#   run [-n RANKS] PROGRAM ...    starts a program of bin/ with the bundle's libraries; over ranks with its own mpirun, or without one with megatune launch
#   gpu-check, gpu-bench          tests/gpu_check.sh and gpu_bench.sh with their programs, where those are built (make bundle does)
#   bin/ lib/ lib/megatune/ share/megatune/models/
#
# A library of more than 16 MiB (oneDNN) comes packed; the first `run` unpacks it where it lies.
#
# Open MPI goes in whole (5 MB): the program starts without one on the machine, and several ranks can run, which the tests of a
# machine with one GPU need. Components for networks whose libraries are large and belong to the driver (UCX, libfabric, PSM,
# verbs), and those for files, stay out: between hosts the bundle's ranks talk over TCP, their GPUs over NCCL, which the machine brings with CUDA.
# On a machine with an Open MPI or Slurm of its own that matters, build there.
set -euo pipefail
BUILD=$1
ROOT=$(cd "$(dirname "$(readlink -f "$0")")/.." && pwd)
cd "$ROOT"
OUT=$BUILD/bundle MOST_MB=${MOST_MB:-60}
rm -rf "$OUT"
mkdir -p "$OUT"/{bin,lib/megatune,share/megatune/models}

# libraries FILE...: what the loader finds for them, but for what every machine has
libraries() {
	LD_LIBRARY_PATH=${MPI_LIB:-}${PMIX_LIB:+:$PMIX_LIB} ldd "$@" 2>/dev/null | awk '
		$2 == "=>" && $3 ~ /^\// && $1 !~ /^(libc|libm|libpthread|libdl|librt|libutil|libresolv|ld-linux.*)\.so/ &&
		$1 !~ /^lib(cuda|cudart|cublas|cublasLt|cupti|nccl|cudnn.*|nvrtc.*|nvidia-.*|nvJitLink)\.so/ { print $3 }' | sort -u
}
# bring FILE FOLDER: a copy without symbols and debugging lines
bring() {
	cp -L "$1" "$2/" && chmod u+w "$2/$(basename "$1")"
	strip --strip-unneeded "$2/$(basename "$1")" 2>/dev/null || true
}

bring "$BUILD/megatune" "$OUT/bin"
for plugin in "$BUILD"/megatune-*.so; do
	[ -f "$plugin" ] && bring "$plugin" "$OUT/lib/megatune"
done
cp examples/models/*.yaml "$OUT/share/megatune/models/"
if [ -x "$BUILD/tests/gpu_kernels" ]; then
	for program in kernels engine times bench step; do bring "$BUILD/tests/gpu_$program" "$OUT/bin"; done
	cp tests/gpu_check.sh "$OUT/gpu-check" && cp tests/gpu_bench.sh "$OUT/gpu-bench" && cp tests/gpu_support.bash "$OUT/"
	cp tests/peer_pytorch.py "$OUT/share/megatune/"
fi

mpi=no
if ldd "$BUILD/megatune" | grep 'libmpi\.so' >/dev/null && command -v ompi_info >/dev/null; then
	mpi=yes
	path_of() { ompi_info --path "$1" --parsable | cut -d: -f3-; }
	MPI_LIB=$(path_of libdir) MPI_COMPONENTS=$(path_of pkglibdir) MPI_SHARE=$(path_of pkgdatadir)
	PMIX_LIB=$(ldd "$MPI_COMPONENTS"/mca_pmix_ext*.so 2>/dev/null | awk '/libpmix/ && $3 ~ /^\// { print $3; exit }')
	[ -z "$PMIX_LIB" ] || PMIX_LIB=$(dirname "$(readlink -f "$PMIX_LIB")")
	bring "$(readlink -f "$(command -v mpirun)")" "$OUT/bin" && mv "$OUT/bin/$(basename "$(readlink -f "$(command -v mpirun)")")" "$OUT/bin/mpirun"
	bring "$(command -v orted)" "$OUT/bin"
	mkdir -p "$OUT/lib/openmpi" "$OUT/share/openmpi"
	cp "$MPI_SHARE"/help-*.txt "$OUT/share/openmpi/"
	for component in "$MPI_COMPONENTS"/mca_*.so; do
		case $(basename "$component") in
		mca_io_* | mca_fs_* | mca_fbtl_* | mca_fcoll_* | mca_sharedfp_* | *monitoring* | mca_op_avx*) continue ;;
		esac
		libraries "$component" | grep -E '/lib(uc[pst]|fabric|psm2|psm_infinipath|ibverbs|oshmem|nl-3|flux[^/]*|pmi2?)\.so' >/dev/null ||
			bring "$component" "$OUT/lib/openmpi"
	done
	if [ -n "$PMIX_LIB" ]; then
		mkdir -p "$OUT/lib/pmix" "$OUT/share/pmix"
		for component in "$PMIX_LIB"/pmix/*.so; do [ -f "$component" ] && bring "$component" "$OUT/lib/pmix"; done
		cp "$PMIX_LIB"/../share/pmix/help-*.txt "$OUT/share/pmix/" 2>/dev/null || true
	fi
fi

mapfile -t files < <(find "$OUT" -type f \( -perm -u+x -o -name '*.so' \) ! -name '*.sh' ! -name run ! -name 'gpu-*')
while read -r library; do
	[ -e "$OUT/lib/$(basename "$library")" ] || bring "$library" "$OUT/lib"
done < <(for f in "${files[@]}"; do libraries "$f"; done | sort -u)

find "$OUT/lib" -name '*.so*' -size +16M -exec gzip -9n {} +

cat >"$OUT/run" <<'RUN'
#!/bin/bash
# run [-n RANKS] PROGRAM ...: a program of this folder with the libraries of this folder; over ranks with its mpirun.
here=$(cd "$(dirname "$(readlink -f "$0")")" && pwd)
export LD_LIBRARY_PATH=$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH} MEGATUNE_PLUGINS=$here/lib/megatune
export PATH=$here/bin:$PATH
for packed in "$here"/lib/*.gz; do
	library=${packed%.gz}
	[ -e "$packed" ] && ! [ -e "$library" ] || continue
	{ gzip -dc "$packed" >"$library.$$" && mv -f "$library.$$" "$library"; } ||
		{ rm -f "$library.$$"; echo "run: cannot unpack $packed: it needs gzip and room in a folder that may be written" >&2; exit 2; }
done
if [ -d "$here/lib/openmpi" ]; then
	export OPAL_PREFIX=$here OPAL_LIBDIR=$here/lib OPAL_BINDIR=$here/bin OPAL_DATADIR=$here/share OPAL_SYSCONFDIR=$here/etc
	export OPAL_PKGLIBDIR=$here/lib/openmpi OPAL_PKGDATADIR=$here/share/openmpi
	export PMIX_PREFIX=$here PMIX_LIBDIR=$here/lib PMIX_PKGLIBDIR=$here/lib/pmix PMIX_PKGDATADIR=$here/share/pmix
	export PMIX_INSTALL_PREFIX=$here PMIX_MCA_mca_base_component_show_load_errors=0 OMPI_MCA_mca_base_component_show_load_errors=0
fi
ranks=
if [ "$1" = -n ]; then
	ranks=$2
	shift 2
fi
[ $# -gt 0 ] || { sed -n 's/^# //p' "$0" >&2; exit 2; }
program=$1
shift
[ -x "$here/bin/$program" ] && program=$here/bin/$program
[ -n "$ranks" ] || exec "$program" "$@"
[ -x "$here/bin/mpirun" ] || exec "$here/bin/megatune" launch -n "$ranks" -- "$program" "$@"
root=()
[ "$(id -u)" -ne 0 ] || root=(--allow-run-as-root)
command -v ssh >/dev/null || root+=(--mca plm isolated) # this host only
exec "$here/bin/mpirun" "${root[@]}" --oversubscribe --bind-to none --mca pml ob1 --mca btl self,vader,tcp \
	--mca mpi_yield_when_idle 1 -n "$ranks" "$program" "$@"
RUN
chmod +x "$OUT/run"

# What it needs of the machine: the newest symbol version of libc in any of its files.
glibc=$({ find "$OUT" -type f \( -perm -u+x -o -name '*.so*' \) -exec readelf -V {} + 2>/dev/null || true; } |
	grep -o 'GLIBC_2\.[0-9]*' | sort -t. -k2 -n | tail -n 1)
bytes=$(du -s --apparent-size -B1 "$OUT" | cut -f1)
# shellcheck source=/dev/null
system=$(. /etc/os-release && echo "$PRETTY_NAME")
cat >"$OUT/README" <<TEXT
megatune, built on $system for $(uname -m). Needs libc ${glibc#GLIBC_} or newer; MPI inside: $mpi.
  ./run megatune doctor
  ./run -n 2 megatune train RUN.yaml
  ./gpu-check; ./gpu-bench      whether and how fast it runs on this machine's NVIDIA GPU
TEXT
echo "bundle   $OUT: $((bytes >> 20)) MiB, libc ${glibc#GLIBC_} or newer, MPI inside: $mpi"
[ "$bytes" -lt $((MOST_MB << 20)) ] || { echo "bundle: $((bytes >> 20)) MiB, the limit is $MOST_MB MiB" >&2; exit 1; }
