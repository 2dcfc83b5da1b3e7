#!/usr/bin/env bats
# The bundle: a folder that runs where it is copied to, without the libraries it was built against.

load cli_support

setup_file() {
	BUILD=${BUILD:-build}
	cd "$BATS_TEST_DIRNAME/.." && tools/bundle.sh "$BUILD" >&3
}

setup() {
	start_here
	[ -x "$BIN/bundle/run" ]
	cp -r "$BIN/bundle" "$BATS_TEST_TMPDIR/elsewhere"
	HERE=$BATS_TEST_TMPDIR/elsewhere
	run_file run.yaml
	unset MEGATUNE_DATA MEGATUNE_PLUGINS
}

@test "the bundle is under 60 MiB" {
	bytes=$(du -s --apparent-size -B1 "$HERE" | cut -f1)
	echo "$bytes bytes"
	[ "$bytes" -lt $((60 << 20)) ]
}

@test "a copy of the bundle trains, with every library but libc's its own" {
	! nm "$BIN/megatune" 2>/dev/null | grep -q __asan_init || skip "a sanitizer's library must come first"
	LD_DEBUG=files LD_DEBUG_OUTPUT=$BATS_TEST_TMPDIR/loaded attempt "$HERE/run" megatune train "$GIVEN/run.yaml" --steps 2
	finished
	grep -q '^step     1' "$OUT"
	# the last loaded file is of the program: bash and readlink of the wrapper have their own
	foreign=$(grep -lh 'libdnnl' "$BATS_TEST_TMPDIR"/loaded.* | xargs grep -h 'calling init: /' | sed 's/.*calling init: //' |
		grep -v "^$HERE/" | grep -Ev '/(libc|libm|libpthread|libdl|librt|libutil|libresolv|libtinfo|ld-linux[^/]*)\.so' || true) # libtinfo: bash's
	[ -z "$foreign" ] || { echo "not the bundle's: $foreign"; return 1; }
}

@test "in an empty root with libc alone it trains on two ranks, without an Open MPI" {
	[ -d "$HERE/lib/openmpi" ] || skip "built without MPI"
	! nm "$BIN/megatune" 2>/dev/null | grep -q __asan_init || skip "a sanitizer's library must come first"
	unshare -m true 2>/dev/null || skip "no mount namespaces for this user"
	R=$BATS_TEST_TMPDIR/root
	mkdir -p "$R"/{lib64,bin,usr/bin,tmp,proc,sys,dev,etc}
	mkdir -p "$R$(dirname "$(ldd "$BIN/megatune" | awk '/libc\.so/ { print $3 }')")"
	echo 'root:x:0:0:root:/tmp:/bin/bash' >"$R/etc/passwd"
	for program in bash readlink dirname id gzip mv rm; do
		cp -L "$(command -v $program)" "$R/usr/bin/"
		for file in $(ldd "$(command -v $program)" | grep -o '/[^ ]*'); do
			mkdir -p "$R$(dirname "$file")" && cp -Ln "$file" "$R$file"
		done
	done
	cp "$R/usr/bin/bash" "$R/bin/bash" && cp "$R/usr/bin/bash" "$R/bin/sh"
	for file in $(ldd "$BIN/megatune" | grep -o '/[^ ]*' | grep -E '/(libc|libm|libpthread|libdl|librt|libutil|ld-linux[^/]*)\.so'); do
		mkdir -p "$R$(dirname "$file")" && cp -Ln "$file" "$R$file"
	done
	for name in libpthread.so.0 libdl.so.2 librt.so.1 libutil.so.1; do
		file=$(dirname "$(ldd "$BIN/megatune" | awk '/libc\.so/ { print $3 }')")/$name
		[ -e "$file" ] && cp -Ln "$file" "$R$file"
	done
	cp -r "$HERE" "$R/m"
	sed 's/threads: 1/threads: 1, tp: 2/' "$GIVEN/run.yaml" >"$R/tmp/run.yaml"
	attempt unshare -m bash -c "mount -t proc proc '$R/proc' && mount --rbind /dev '$R/dev' && mount --rbind /sys '$R/sys' &&
		exec chroot '$R' /bin/bash -c 'cd /tmp && HOME=/tmp PATH=/usr/bin:/bin TMPDIR=/tmp exec /m/run -n 2 megatune train run.yaml --steps 2'"
	finished
	grep -q '^step     1' "$OUT"
}
