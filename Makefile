# megatune: one Makefile.
#   make            the program, build/megatune          make test      build and pass the tests
#   make tune       tune GPT-2 124M on this machine      make bench     the speed figures of the README
#   make deps       install what is missing              make lint      static checks    make layers   the include rules
#   make bundle     a folder that runs elsewhere   make gpu-check   is it right on a GPU   make gpu-bench   how fast is it there
#   make install PREFIX=/usr/local DESTDIR=              make clean
# Options: DEBUG=1 (asserts, agreement checks of collectives)  SANITIZE=1 (ASan and UBSan)  WERROR=1  V=1
#          MPI=no HWLOC=no PCRE2=no UTF8PROC=no CUDA=no (leave out what was found)  CUDA_HOME=/usr/local/cuda
#          NVCC_ARCHS="80 90a 100 120"
ifneq ($(V),1)
Q := @
endif
PREFIX  ?= /usr/local
DESTDIR ?=
CC      ?= gcc
BUILD   ?= build
VERSION := 0.1.0

.DEFAULT_GOAL := all

ROOMS := base kernels comm engine profiles probes reports tuner

# Optional packages: found, or absent and what is left out.
MPICC := $(if $(filter no,$(MPI)),,$(shell command -v mpicc 2>/dev/null))
ifneq ($(MPICC),)
MPI_CFLAGS := -DMT_HAVE_MPI $(shell $(MPICC) --showme:compile 2>/dev/null)
MPI_LIBS   := $(shell $(MPICC) --showme:link 2>/dev/null)
endif
HWLOC_FOUND := $(if $(filter no,$(HWLOC)),,$(wildcard /usr/include/hwloc.h /usr/local/include/hwloc.h))
ifneq ($(HWLOC_FOUND),)
HWLOC_CFLAGS := -DMT_HAVE_HWLOC
HWLOC_LIBS   := -lhwloc
endif
PCRE2_FOUND := $(if $(filter no,$(PCRE2)),,$(wildcard /usr/include/pcre2.h /usr/local/include/pcre2.h))
ifneq ($(PCRE2_FOUND),)
TEXT_CFLAGS += -DMT_HAVE_PCRE2
TEXT_LIBS   += -lpcre2-8
endif
UTF8PROC_FOUND := $(if $(filter no,$(UTF8PROC)),,$(wildcard /usr/include/utf8proc.h /usr/local/include/utf8proc.h))
ifneq ($(UTF8PROC_FOUND),)
TEXT_CFLAGS += -DMT_HAVE_UTF8PROC
TEXT_LIBS   += -lutf8proc
endif
GNUPLOT_FOUND := $(shell command -v gnuplot 2>/dev/null)
# CUDA is never linked into the program: what uses it is a plugin, build/megatune-NAME.so, loaded at run time.
NVCC ?= $(firstword $(shell command -v nvcc 2>/dev/null) $(wildcard $(CUDA_HOME)/bin/nvcc /usr/local/cuda/bin/nvcc))
NVCC_FOUND := $(if $(filter no,$(CUDA)),,$(shell command -v "$(NVCC)" 2>/dev/null))
ifneq ($(NVCC_FOUND),)
CUDA_HOME ?= $(abspath $(dir $(realpath $(NVCC_FOUND)))..)
CUDA_INCLUDES := $(wildcard $(CUDA_HOME)/include $(CUDA_HOME)/extras/CUPTI/include)
endif
NVCC_ARCHS ?= 80 90a 100 120

WARN   := -Wall -Wextra -Wpointer-arith -Wstrict-prototypes -Wmissing-prototypes -Wshadow -Wno-unused-parameter
OPT    := -O2
EXTRA  :=
ifeq ($(DEBUG),1)
OPT    := -Og -DMT_DEBUG
endif
ifeq ($(SANITIZE),1)
EXTRA  += -fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined
OPT    := -O1 -DMT_DEBUG
endif
ifeq ($(WERROR),1)
WARN   += -Werror
endif
CFLAGS  ?= -g
ALL_CFLAGS = -std=gnu11 $(OPT) $(CFLAGS) $(WARN) $(EXTRA) -fopenmp -fno-math-errno -fno-strict-aliasing -I. \
	-DMT_VERSION='"$(VERSION)"' -DMT_PREFIX='"$(PREFIX)"' $(MPI_CFLAGS) $(HWLOC_CFLAGS) $(TEXT_CFLAGS) -MMD -MP
LIBS = -ldnnl -lyaml -ljansson -lsqlite3 -lxxhash $(HWLOC_LIBS) $(TEXT_LIBS) $(MPI_LIBS) -fopenmp -lpthread -lm
LDFLAGS_ALL = $(LDFLAGS) $(EXTRA) -rdynamic

# Sources of plugins are no part of the program.
PLUGIN_SRC := $(wildcard kernels/cuda/*.c kernels/cuda/*.cu kernels/cuda/*/*.c comm/nccl*.c profiles/cupti*.c)
SRC := $(filter-out tuner/main.c $(PLUGIN_SRC),$(foreach r,$(ROOMS),$(wildcard $(r)/*.c $(r)/*/*.c)))
OBJ := $(SRC:%.c=$(BUILD)/obj/%.o)
# Vectorised kernels: each file of kernels/cpu/isa is compiled once an instruction set, chosen at run time.
ISA_SRC := $(wildcard kernels/cpu/isa/*.c)
ifeq ($(shell uname -m),x86_64)
ISAS := v2 v3 v4
else
ISAS := base
endif
ISA_FLAGS_v2 := -march=x86-64-v2
ISA_FLAGS_v3 := -march=x86-64-v3
ISA_FLAGS_v4 := -march=x86-64-v4 -mprefer-vector-width=512
ISA_OBJ := $(foreach i,$(ISAS),$(ISA_SRC:%.c=$(BUILD)/obj/%.$(i).o))
LIB := $(BUILD)/libmegatune.a
PROGRAM := $(BUILD)/megatune

ifeq ($(SANITIZE),1)
SANITIZE_OBJ := $(BUILD)/obj/tests/sanitizers/nodlclose.o
endif

# CUDA kernels compiled for the processor, for tests/test_cuda_host_*: g++ and an emulator in place of nvcc and a GPU.
CXX_FOUND := $(shell command -v $(CXX) 2>/dev/null)
CUDA_HOST_SRC := $(wildcard kernels/cuda/*.cu tests/cuda_host/*.cu tests/cuda_host/*.cpp)
CUDA_HOST_OBJ := $(CUDA_HOST_SRC:%=$(BUILD)/obj/%.host.o)
CUDA_HOST_FLAGS = -std=gnu++17 $(subst -Og,-O1,$(OPT)) -g $(EXTRA) $(if $(EXTRA),-fno-sanitize=vptr) -Wall -Wextra -Wno-unused-parameter \
	-Wno-unknown-pragmas $(filter -Werror,$(WARN)) -fno-exceptions -fno-rtti -fno-threadsafe-statics -fno-strict-aliasing \
	-Itests/cuda_host/include -I. -MMD -MP

UNIT_TESTS := $(patsubst tests/%.c,$(BUILD)/tests/%,$(filter-out $(if $(CXX_FOUND),,tests/test_cuda_host_%),$(wildcard tests/test_*.c)))
# Started by tests/gpu_check.sh and gpu_bench.sh.
GPU_TESTS  := $(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/gpu_*.c))
MPI_TESTS  := $(if $(MPICC),$(patsubst tests/%.c,$(BUILD)/tests/%,$(wildcard tests/mpi_*.c)))

# Plugins: name, header that must be there, sources, libraries. One without sources or without its header is left out.
NVCC_GENCODE := $(foreach a,$(NVCC_ARCHS),-gencode arch=compute_$(a),code=sm_$(a))
NVCC_FLAGS := -std=c++17 -O3 -t 2 -Werror all-warnings -I. $(NVCC_GENCODE) \
	-Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-Wno-unused-parameter
# Less than half the bytes of what four architectures take; known to nvcc from CUDA 12.4 on.
NVCC_COMPRESS := $(if $(NVCC_FOUND),$(shell $(NVCC_FOUND) --help | grep -q -e --compress-mode && echo --compress-mode=size))
PLUGIN_CFLAGS := -fPIC -fvisibility=hidden $(CUDA_INCLUDES:%=-isystem %)
PLUGIN_LIBS := -L$(CUDA_HOME)/lib64 -L$(CUDA_HOME)/lib -L$(CUDA_HOME)/extras/CUPTI/lib64

define plugin_rule
PLUGINS += $(BUILD)/megatune-$(1).so
$(BUILD)/megatune-$(1).so: $(3:%=$(BUILD)/obj/%.pic.o)
	$$(Q)echo "link     $$@"; $(CXX) -shared $(LDFLAGS) $(EXTRA) -Wl,--exclude-libs,ALL -o $$@ $$^ $(PLUGIN_LIBS) $(4) \
		-lcudart_static -ldl -lrt -lpthread
endef
plugin_header = $(wildcard $(addsuffix /$(1),$(CUDA_INCLUDES) /usr/include /usr/local/include))
plugin = $(if $(and $(NVCC_FOUND),$(strip $(3)),$(call plugin_header,$(2))),$(eval $(plugin_rule)))
$(call plugin,cuda,cublasLt.h,$(wildcard kernels/cuda/*.c kernels/cuda/*.cu),-lcublasLt)
$(call plugin,cudnn,cudnn.h,$(wildcard kernels/cuda/cudnn/*.c),-lcudnn)
$(call plugin,nccl,nccl.h,$(wildcard comm/nccl*.c),-lnccl)
$(call plugin,cupti,cupti.h,$(wildcard profiles/cupti*.c),-lcupti)

# The nccl fabric over a double of NCCL, and a double of the CUDA device, for tests that need no GPU.
ifneq ($(filter %/megatune-nccl.so,$(PLUGINS)),)
DOUBLES := $(BUILD)/tests/plugins/megatune-nccl.so $(BUILD)/tests/plugins/megatune-cuda.so
$(BUILD)/tests/plugins/megatune-nccl.so: $(patsubst %,$(BUILD)/obj/%.pic.o,$(wildcard comm/nccl*.c) tests/nccl_double.c)
$(BUILD)/tests/plugins/megatune-cuda.so: $(BUILD)/obj/tests/cuda_double.c.pic.o
$(DOUBLES):
	@mkdir -p $(@D)
	$(Q)echo "link     $@"; $(CC) -shared $(LDFLAGS) $(EXTRA) -o $@ $^ -lpthread
endif

# Objects of tests are kept, not removed as intermediate files.
.SECONDARY:
.PHONY: all deps tune test check bench bench-search bundle gpu-check gpu-bench lint layers install uninstall clean found
all: found $(PROGRAM) $(PLUGINS)

found:
	@echo "mpi      $(if $(MPICC),found ($(MPICC)),absent: no run over more than one rank)"
	@echo "hwloc    $(if $(HWLOC_FOUND),found,absent: sockets, NUMA and caches are read from /sys only)"
	@echo "cuda     $(if $(NVCC_FOUND),found ($(CUDA_HOME), sm_$(NVCC_ARCHS)): $(if $(PLUGINS),$(PLUGINS),no plugins),absent: no NVIDIA GPUs)"
	@echo "pcre2    $(if $(PCRE2_FOUND),found,absent: of tokenizers only bytes and those without patterns)"
	@echo "utf8proc $(if $(UTF8PROC_FOUND),found,absent: tokenizers that normalize read Latin text only)"
	@echo "gnuplot  $(if $(GNUPLOT_FOUND),found ($(GNUPLOT_FOUND)),absent: reports have tables in place of figures)"

# Rebuild when the flags change.
$(BUILD)/flags: FORCE
	@mkdir -p $(BUILD)
	@echo '$(CC) $(ALL_CFLAGS) $(LIBS) $(LDFLAGS_ALL)' | cmp -s - $@ || echo '$(CC) $(ALL_CFLAGS) $(LIBS) $(LDFLAGS_ALL)' > $@
FORCE:

$(BUILD)/obj/%.o: %.c $(BUILD)/flags
	@mkdir -p $(@D)
	$(Q)echo "cc       $<"; $(CC) $(ALL_CFLAGS) -c $< -o $@

# Of plugins. They have flags of their own, so that a change of architecture does not build the program anew.
$(BUILD)/flags-cuda: FORCE
	@mkdir -p $(BUILD)
	@echo '$(NVCC) $(NVCC_FLAGS) $(PLUGIN_CFLAGS)' | cmp -s - $@ || echo '$(NVCC) $(NVCC_FLAGS) $(PLUGIN_CFLAGS)' > $@
$(BUILD)/obj/%.c.pic.o: %.c $(BUILD)/flags $(BUILD)/flags-cuda
	@mkdir -p $(@D)
	$(Q)echo "cc       $< (plugin)"; $(CC) $(ALL_CFLAGS) $(PLUGIN_CFLAGS) -c $< -o $@
$(BUILD)/obj/%.cu.pic.o: %.cu $(BUILD)/flags-cuda
	@mkdir -p $(@D)
	$(Q)echo "nvcc     $<"; $(NVCC) $(NVCC_FLAGS) $(NVCC_COMPRESS) -MMD -MP -MF $(@:.o=.d) -c $< -o $@

define isa_rule
$(BUILD)/obj/kernels/cpu/isa/%.$(1).o: kernels/cpu/isa/%.c $(BUILD)/flags
	@mkdir -p $$(@D)
	$(Q)echo "cc       $$< ($(1))"; $(CC) $$(ALL_CFLAGS) -O3 -fopenmp-simd $(ISA_FLAGS_$(1)) -DMT_ISA=$(1) -c $$< -o $$@
endef
$(foreach i,$(ISAS),$(eval $(call isa_rule,$(i))))

$(LIB): $(OBJ) $(ISA_OBJ)
	@rm -f $@
	$(Q)ar rcs $@ $^

# All of the library, not only what a program itself uses: a plugin looks up its symbols in the program that loads it. Those of
# the bundle must be small, and use what its plugins need.
whole = $(filter-out $(LIB),$(1)) $(if $(filter $(LIB),$(1)),-Wl$(,)--whole-archive $(LIB) -Wl$(,)--no-whole-archive)
, := ,

$(PROGRAM): $(BUILD)/obj/tuner/main.o $(SANITIZE_OBJ) $(LIB)
	$(Q)echo "link     $@"; $(CC) $(LDFLAGS_ALL) -o $@ $(call whole,$^) $(LIBS)

$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(SANITIZE_OBJ) $(LIB)
	@mkdir -p $(@D)
	$(Q)echo "link     $@"; $(CC) $(LDFLAGS_ALL) -o $@ $(if $(filter gpu_%,$*),$^,$(call whole,$^)) $(LIBS) -lcmocka

$(CUDA_HOST_OBJ): $(BUILD)/obj/%.host.o: % $(BUILD)/flags
	@mkdir -p $(@D)
	$(Q)echo "c++      $<"; $(CXX) $(CUDA_HOST_FLAGS) -x c++ -include tests/cuda_host/cuda_host.h -c $< -o $@

# Named one by one, so that the pattern above never takes them.
$(filter $(BUILD)/tests/test_cuda_host_%,$(UNIT_TESTS)): $(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(CUDA_HOST_OBJ) $(SANITIZE_OBJ) $(LIB)
	@mkdir -p $(@D)
	$(Q)echo "link     $@"; $(CC) $(LDFLAGS_ALL) -o $@ $(call whole,$^) $(LIBS) -lcmocka

# A file of the CUDA device against doubles of CUDA's calls.
$(BUILD)/obj/tests/test_kernels_graph.o: EXTRA += -Itests/cuda_calls

# A stand-in for the NVIDIA driver's management library.
NVML_DOUBLE := $(BUILD)/tests/nvml/libnvidia-ml.so.1
$(NVML_DOUBLE): tests/nvml/double.c
	@mkdir -p $(@D)
	$(Q)echo "link     $@"; $(CC) -std=gnu11 -O1 -g $(WARN) -shared -fPIC -Wl,-soname,libnvidia-ml.so.1 -o $@ $<
$(BUILD)/tests/test_base_nvml $(BUILD)/tests/test_probes_links: | $(NVML_DOUBLE)

-include $(shell find $(BUILD)/obj -name '*.d' 2>/dev/null)

# What the build, the program and the tests use; installed only where something is missing.
DEPS := openmpi-bin libopenmpi-dev libhwloc-dev gnuplot-nox libdnnl-dev libcmocka-dev libjansson-dev libsqlite3-dev libxxhash-dev libyaml-dev bats \
	iproute2 g++ libpcre2-dev libutf8proc-dev libjson-xs-perl
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
deps:
	@missing=""; for p in $(DEPS); do dpkg -s $$p >/dev/null 2>&1 || missing="$$missing $$p"; done; \
	if [ -z "$$missing" ]; then echo "deps     all there"; else \
		echo "deps     installing with apt-get:$$missing"; \
		$(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $$missing; fi

# The main job: GPT-2 124M on 2 ranks of this machine, on real text of it. A second make sees what deps installed.
TUNE_RANKS ?= 2
TUNE_DATA  ?= /usr/share/common-licenses
TUNE_OUT   ?= tuned
tune: deps
	@$(MAKE) --no-print-directory all
	$(PROGRAM) tune gpt2-124m --gpus $(TUNE_RANKS) --data $(TUNE_DATA) --out $(TUNE_OUT) $(TUNE_FLAGS)

test: deps
	@$(MAKE) --no-print-directory check

check: $(PROGRAM) $(PLUGINS) $(UNIT_TESTS) $(MPI_TESTS) $(GPU_TESTS) $(DOUBLES)
	BUILD=$(BUILD) tests/run.sh $(TESTS)

bench: $(PROGRAM) $(BUILD)/tests/bench_kernels
	BUILD=$(BUILD) tests/bench.sh

# Layouts a second of the search on described machines, on one core.
bench-search: $(BUILD)/tests/bench_search
	MEGATUNE_DATA=examples $(BUILD)/tests/bench_search

# A folder that runs on another machine: the program, its plugins and the libraries they need.
bundle: $(PROGRAM) $(PLUGINS) $(GPU_TESTS)
	tools/bundle.sh $(BUILD)

# Both together in 10 minutes. DEVICE=cpu or late SIZE=few runs the same on the host.
gpu-check: $(PROGRAM) $(PLUGINS) $(GPU_TESTS)
	BUILD=$(BUILD) tests/gpu_check.sh

gpu-bench: $(PROGRAM) $(PLUGINS) $(GPU_TESTS)
	BUILD=$(BUILD) tests/gpu_bench.sh

lint: export LINT_CFLAGS = $(ALL_CFLAGS)
lint:
	tests/lint.sh

layers:
	tests/layers.sh

install: $(PROGRAM) $(PLUGINS)
	install -D -m 755 $(PROGRAM) $(DESTDIR)$(PREFIX)/bin/megatune
	$(if $(PLUGINS),install -d $(DESTDIR)$(PREFIX)/lib/megatune && install -m 755 $(PLUGINS) $(DESTDIR)$(PREFIX)/lib/megatune/)
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/megatune/models
	$(PROGRAM) --help=man | gzip -9n >$(DESTDIR)$(PREFIX)/share/man/man1/megatune.1.gz
	install -D -m 644 tuner/completion.bash $(DESTDIR)$(PREFIX)/share/bash-completion/completions/megatune
	install -m 644 examples/models/*.yaml $(DESTDIR)$(PREFIX)/share/megatune/models/
	for kind in machines stacks maps; do install -d $(DESTDIR)$(PREFIX)/share/megatune/$$kind && \
		install -m 644 profiles/$$kind/*.yaml $(DESTDIR)$(PREFIX)/share/megatune/$$kind/ || exit 1; done

uninstall:
	rm -f $(DESTDIR)$(PREFIX)/bin/megatune $(DESTDIR)$(PREFIX)/share/man/man1/megatune.1.gz
	rm -f $(DESTDIR)$(PREFIX)/share/bash-completion/completions/megatune
	rm -rf $(DESTDIR)$(PREFIX)/share/megatune $(DESTDIR)$(PREFIX)/lib/megatune

clean:
	rm -rf $(BUILD)
