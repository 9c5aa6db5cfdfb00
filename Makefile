# Builds, checks and installs dass. `make help` lists the targets.
#
# One file, no recursion into folders, safe under -j. Sources are found by wildcard per layer, and objects live in
# $(O)/<mode>/ so that modes never mix. $(O)/<mode>/config holds every choice that changes an object: when it changes,
# everything of that mode is rebuilt, so two configurations cannot be linked together by accident.
#
#   MODE=release|debug|asan|ubsan|tsan|cover|fuzz   ONEDNN=auto|0|1   MPI=auto|0|1   CUDA=auto|0|1   WERROR=0|1   V=0|1
#   GENCODE=80 90 100 120 (compute capabilities of the CUDA plugin; the last is added as PTX)   CUDA_HOME=/usr/local/cuda
#   CUDA_INC, CUDA_LIB (folders, where the CUDA libraries are not the toolkit's)   DOUBLE=1|0 (also build the tests' double)
#   NVWERROR=1|0 (nvcc's and ptxas' warnings, spills among them, are errors)
#   DEPS=folder with include and lib of the other libraries, where the system has no packages (`make gpu-deps` fills one)
#   O=build (root of all outputs)   PREFIX=/usr/local   DESTDIR=   JOBS=<cores, for demo/test/asan/...>

.DEFAULT_GOAL := all
.SUFFIXES:
.DELETE_ON_ERROR:

VERSION := 0.1.0
MODE    ?= release
ONEDNN  ?= auto
MPI     ?= auto
CUDA    ?= auto
WERROR  ?= 0
NVWERROR ?= 1
V       ?= 0
O       ?= build
PREFIX  ?= /usr/local
AR      ?= ar
PYTHON  ?= python3
ifeq ($(origin CC),default)
CC := $(if $(filter fuzz,$(MODE)),clang,gcc)
endif

B    := $(O)/$(MODE)
DASS := $(if $(filter release,$(MODE)),$(O)/dass,$(B)/dass)
Q    := $(if $(filter 1,$(V)),,@)
say   = $(if $(filter 1,$(V)),,@printf '  %-4s %s\n' '$(1)' '$(2)')

# ---------------------------------------------------------------------------------------------------------- modes

opt_release := -O3 -g
opt_debug   := -O1 -g
opt_asan    := -O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all
opt_ubsan   := -O1 -g -fno-omit-frame-pointer -fsanitize=undefined -fno-sanitize-recover=all
opt_tsan    := -O1 -g -fno-omit-frame-pointer -fsanitize=thread
opt_cover   := -O1 -g --coverage
opt_fuzz    := -O1 -g -fno-omit-frame-pointer -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
ifndef opt_$(MODE)
$(error MODE=$(MODE) is not a mode; use one of release debug asan ubsan tsan cover fuzz)
endif

# Instrumented code misleads gcc's flow analysis; the release build keeps these.
warn_blind := -Wno-format-truncation -Wno-maybe-uninitialized -Wno-stringop-overflow -Wno-array-bounds
warn := -Wall -Wextra -Wshadow -Wdouble-promotion -Wcast-qual -Wstrict-prototypes -Wmissing-prototypes -Wundef -Wvla \
        -Wwrite-strings -Wformat=2 -Wswitch-enum -Wpointer-arith -Wunused -Wimplicit-fallthrough \
        $(if $(filter asan ubsan tsan,$(MODE)),$(warn_blind)) $(if $(filter 1,$(WERROR)),-Werror)

# The thread sanitizer cannot see the synchronisation inside the OpenMP runtime, so that mode runs serially inside
# operators (omp_get_num_threads() still comes from libgomp, and answers 1). Fuzzing needs no threads either.
serial_modes := tsan fuzz
openmp := $(if $(filter $(serial_modes),$(MODE)),-Wno-unknown-pragmas,-fopenmp)
omp_dir = $(if $(filter fuzz,$(MODE)),-idirafter $(shell gcc -print-file-name=include))

deps_inc := $(DEPS:%=-isystem %/include)
deps_lib := $(DEPS:%=-L%/lib -Wl,-rpath,$(abspath $(DEPS))/lib)

flags := -std=gnu11 $(opt_$(MODE)) -fno-math-errno -fno-trapping-math $(openmp) $(warn) -Iinclude -Isrc/host $(deps_inc)

# --------------------------------------------------------------------------------------------------------- probes
# Each probe compiles (and links) a small program and answers 1 or 0. tests/cli/make_probe.sh proves that every one
# answers. Goals that build nothing ask nothing.

# `make print-NAME` asks but complains of nothing.

quiet_goals := help clean distclean lint format golden setup demo check test asan ubsan tsan fuzz gpu-check gpu-deps print-%
builds := $(filter-out $(quiet_goals),$(or $(MAKECMDGOALS),all))

H := \#
probe = $(shell printf '$(1)' | $(2) -x c - -o /dev/null $(3) >/dev/null 2>&1 && echo 1 || echo 0)

dnnl_program := $(H)include <dnnl.h>\nint main(void) { return !dnnl_engine_get_count(dnnl_cpu); }\n
mpi_program  := $(H)include <mpi.h>\nint main(void) { return MPI_Finalize(); }\n
cuda_program := $(H)include <cuda_runtime.h>\n$(H)include <cudnn.h>\n$(H)include <cublasLt.h>\n \
                $(H)include <cusparse.h>\nint main(void) { return (int)cudaSuccess; }\n
libs_program := $(H)include <yaml.h>\n$(H)include <jansson.h>\n$(H)include <zlib.h>\n$(H)include <lzma.h>\n \
                $(H)define XXH_INLINE_ALL\n$(H)include <xxhash.h>\n \
                int main(void) { return !(yaml_get_version_string() && json_object() && zlibVersion() \
                && lzma_version_string() && XXH64("", 0, 0)); }\n
CUDA_HOME ?= $(firstword $(wildcard /usr/local/cuda /opt/cuda))
CUDA_INC  ?= $(CUDA_HOME:%=%/include)
CUDA_LIB  ?= $(CUDA_HOME:%=%/lib64)
NVCC      ?= $(CUDA_HOME)/bin/nvcc
GENCODE   ?= 80 90 100 120

ifneq ($(builds)$(filter print-%,$(MAKECMDGOALS)),)
cc_version := $(shell $(CC) -dumpfullversion -dumpversion 2>/dev/null || echo none)
have_libs  := $(call probe,$(libs_program),$(CC) $(deps_inc),$(deps_lib) -lyaml -ljansson -lz -llzma)
have_dnnl  := $(if $(filter 0,$(ONEDNN)),0,$(call probe,$(dnnl_program),$(CC),-ldnnl))
have_mpi   := $(if $(filter 0,$(MPI)),0,$(call probe,$(mpi_program),$(or $(MPICC),mpicc),))
have_cuda  := $(if $(filter 0,$(CUDA)),0,$(if $(wildcard $(NVCC)),$(call probe,$(cuda_program),$(CC),\
              -c $(CUDA_INC:%=-isystem %)),0))
build_id   := $(shell GIT_OPTIONAL_LOCKS=0 git describe --always --dirty 2>/dev/null || echo unknown)

# oneDNN has its own OpenMP threads, which the thread sanitizer misreads for the reason above.
use_dnnl := $(if $(filter auto,$(ONEDNN)),$(if $(filter $(serial_modes),$(MODE)),0,$(have_dnnl)),$(have_dnnl))

ifneq ($(builds),)
ifeq ($(cc_version),none)
$(error no C compiler: '$(CC)' does not run. `make setup` installs what is missing)
endif
ifneq ($(have_libs),1)
$(error the headers or libraries of libyaml, jansson, zlib, liblzma or xxhash are missing. `make setup` installs them)
endif
ifeq ($(ONEDNN)$(have_dnnl),10)
$(error ONEDNN=1, but a program with <dnnl.h> and -ldnnl does not build. `make setup` installs libdnnl-dev)
endif
ifeq ($(MPI)$(have_mpi),10)
$(error MPI=1, but a program with <mpi.h> does not build with '$(or $(MPICC),mpicc)')
endif
ifeq ($(CUDA)$(have_cuda),10)
$(error CUDA=1, but nvcc or the headers of CUDA, cuDNN, cuBLASLt or cuSPARSE were not found. Set CUDA_HOME to the toolkit, CUDA_INC and CUDA_LIB to what lies elsewhere)
endif
endif
endif

ldlibs := $(deps_lib) $(if $(filter 1,$(use_dnnl)),-ldnnl) $(if $(filter tsan,$(MODE)),-lgomp) -lyaml -ljansson -lz -llzma -lm -lpthread \
          -ldl

# The CUDA plugin takes the program's dass_* functions, so programs export them, and keep those that only it uses.
comma   := ,
exports := -rdynamic $(foreach f,dass_file_write dass_folder_make,-Wl$(comma)-u$(comma)$(f))

# -------------------------------------------------------------------------------------------------------- sources

src := $(filter-out src/host/vec_%.c src/cuda/%,$(wildcard src/*/*.c))
vec := $(wildcard src/host/vec_*.c)
# The unrolled vector code makes the address sanitizer's inline checks a minute of compiling per file: call them instead.
vec_asan := $(if $(filter asan,$(MODE)),--param asan-instrumentation-with-call-threshold=0)
ref := $(wildcard src/host/host_ref.c)
isa := avx512 avx2 portable wide

# The fuzzers need clang and only the layers that read files; the kernels are written for gcc.
ifeq ($(MODE),fuzz)
src := $(filter src/base/% src/graph/% src/model/% src/data/% src/train/%,$(src))
vec :=
ref :=
endif

# vec_*.c are built once per instruction set; "wide" is the 16-lane source in AVX2 instructions.
isa_avx512   := -DDASS_ISA=avx512 -DDASS_VL=16 -mavx512f -mavx512bw -mavx512vl -mavx512dq -mfma \
                -mprefer-vector-width=512 -ffp-contract=fast
isa_avx2     := -DDASS_ISA=avx2 -DDASS_VL=8 -mavx2 -mfma -ffp-contract=fast
isa_portable := -DDASS_ISA=portable -DDASS_VL=4 -ffp-contract=fast
isa_wide     := -DDASS_ISA=wide -DDASS_VL=16 -mavx2 -mfma -ffp-contract=fast -Wno-psabi

lib_src := $(filter-out src/cli/main.c,$(src))
lib_obj := $(lib_src:%.c=$(B)/%.o) $(ref:%.c=$(B)/%64.o) $(foreach i,$(isa),$(vec:%.c=$(B)/%.$(i).o))
cli_obj := $(patsubst %.c,$(B)/%.o,$(wildcard src/cli/main.c))

# ------ the CUDA plugin, and its double for machines without a GPU: the same C objects and kernels, built for the CPU
ifneq ($(filter 1,$(have_cuda)),)
cuda_obj := $(patsubst %.c,$(B)/%.o,$(wildcard src/cuda/*.c))
ifeq ($(filter asan ubsan tsan cover fuzz,$(MODE)),)
plugin   := $(B)/libdass_cuda.so
gpu_obj  := $(patsubst %.cu,$(B)/%.gpu.o,$(wildcard kernels/*.cu))
endif
ifeq ($(filter tsan fuzz,$(MODE))$(filter 0,$(DOUBLE)),)
fake     := $(B)/tests/libdass_fakecuda.so
simt_obj := $(patsubst %.cu,$(B)/%.simt.o,$(wildcard kernels/*.cu)) \
            $(patsubst %.cc,$(B)/%.o,$(wildcard tests/simt/*.cc tests/fakecuda/*.cc)) \
            $(patsubst %.c,$(B)/%.o,$(wildcard tests/fakecuda/fake_*.c))
nodevice := $(B)/tests/nodevice/libcuda.so.1
ifneq ($(filter release debug,$(MODE)),)
dnn_tests := $(B)/tests/fakecuda/test_fake_cudnn
dnn_tools := $(B)/tests/fakecuda/live_plans $(B)/tests/cudnn_plans/live_plans $(B)/tests/cudnn_plans/list_convs \
             $(B)/tests/cudnn_plans/cudnn_plans
endif
endif
endif
cuda_inc  := $(CUDA_INC:%=-isystem %)
cuda_path := $(foreach d,$(CUDA_LIB),-L$(d) -Wl,-rpath,$(d))
cuda_libs := $(cuda_path) -lcudart -lcudnn -lcublasLt -lcusparse
fake_libs := $(cuda_path) -lcudnn -Wl,-rpath,'$$ORIGIN/nodevice' \
             -L$(B)/tests/nodevice -Wl,--no-as-needed -l:libcuda.so.1 -Wl,--as-needed

test_src := $(wildcard tests/test_*.c)
help_src := $(filter-out $(test_src),$(wildcard tests/*.c))
help_obj := $(help_src:%.c=$(B)/%.o)
tests    := $(test_src:%.c=$(B)/%)
fuzzers  := $(patsubst %.c,$(B)/%,$(wildcard tests/fuzz/*.c))

# Harm at the Nth call: a program that watches the one it starts, and what it preloads; neither is instrumented.
ifneq ($(filter release debug asan ubsan,$(MODE)),)
fault     := $(B)/tests/fault/fault
fault_lib := $(B)/tests/fault/libfailing_alloc.so
fault_obj := $(patsubst %.c,$(B)/%.o,$(filter-out %/failing_alloc.c,$(wildcard tests/fault/*.c)))
endif

obj  := $(lib_obj) $(cli_obj) $(help_obj) $(test_src:%.c=$(B)/%.o) $(fuzzers:%=%.o) $(cuda_obj) $(gpu_obj) $(simt_obj) \
        $(dnn_tests:%=%.o) $(dnn_tools:%=%.o) $(fault_obj)
dirs := $(sort $(B) $(if $(cuda_obj),$(B)/tests/cudnn_plans) $(patsubst %/,%,$(dir $(obj) $(nodevice))))

# ------------------------------------------------------------------------------------------------------- building

.PHONY: all tests fuzzers FORCE
all: $(if $(cli_obj),$(DASS),$(B)/libdass.a) $(plugin) ## build the program: build/dass
tests: $(tests) $(fake) $(dnn_tests) $(dnn_tools) $(fault) $(fault_lib)
fuzzers: $(fuzzers)

$(dirs):
	@mkdir -p $@

# Files whose content is compared before they are touched: what depends on them is rebuilt only when it changed.
keep_if_same = if cmp -s $@.new $@; then rm -f $@.new; else mv -f $@.new $@$(1); fi

mark = $(if $(filter 1,$(1)),✓,$(if $(filter 0,$(2)),→,✗))
define summary
  printf '%s\n' 'dass $(VERSION) ($(build_id)), $(MODE)'; \
  printf '  %s %-8s %s\n' \
    ✓ compiler '$(CC) $(cc_version)$(if $(filter 1,$(WERROR)),$(,) warnings are errors)' \
    $(if $(filter -fopenmp,$(openmp)),✓,→) OpenMP '$(if $(filter -fopenmp,$(openmp)),on,off in this mode)' \
    $(if $(filter 1,$(use_dnnl)),✓,→) oneDNN '$(dnnl_text)' \
    $(call mark,$(have_mpi),$(MPI)) MPI '$(call seen,$(have_mpi),$(MPI))' \
    $(call mark,$(have_cuda),$(CUDA)) CUDA '$(cuda_text)' \
    → output '$(DASS)'
endef
dnnl_text = $(if $(filter 1,$(use_dnnl)),on,$(if $(filter 1,$(have_dnnl)),off in this mode \
            (ONEDNN=1 forces it),$(if $(filter 0,$(ONEDNN)),off by ONEDNN=0,not found: convolutions use our own code)))
, := ,
cuda_text = $(if $(filter 1,$(have_cuda)),$(if $(plugin),libdass_cuda.so for $(foreach a,$(GENCODE),sm_$(a)) + PTX,\
            its double only in this mode),$(if $(filter 0,$(CUDA)),off by CUDA=0,not found: no CUDA plugin))
seen = $(if $(filter 1,$(1)),detected$(,) not used yet in this version,$(if $(filter 0,$(2)),not looked for,not found))

$(B)/config: FORCE | $(dirs)
	@printf '%s\n' '$(CC) $(cc_version) $(flags) $(CPPFLAGS) $(CFLAGS)' 'dnnl=$(use_dnnl)' \
	    'cuda=$(have_cuda) $(CUDA_INC)' > $@.new; \
	$(call keep_if_same,; $(summary))

$(B)/objects: FORCE | $(dirs)
	@printf '%s\n' $(lib_obj) > $@.new; $(call keep_if_same)

$(B)/build_id: FORCE | $(dirs)
	@printf '%s\n' '$(VERSION) $(build_id) $(have_mpi) $(have_cuda)' > $@.new; $(call keep_if_same)

compile = $(CC) $(flags) $(extra) $(CPPFLAGS) $(CFLAGS) -MMD -MP -c $< -o $@
link    = $(CC) $(opt_$(MODE)) $(filter -fopenmp,$(openmp)) $(CFLAGS) $(LDFLAGS) $(exports) -o $@ \
          $(filter-out $(B)/%.a,$(filter-out %.so,$^)) $(filter %.a,$^) $(1) $(ldlibs)

$(B)/%.o: %.c $(B)/config | $(dirs)
	$(call say,CC,$<)
	$(Q)$(compile)

$(B)/%64.o: %.c $(B)/config | $(dirs)
	$(call say,CC,$< (f64))
	$(Q)$(compile)

define vec_rule
$$(B)/%.$(1).o: %.c $$(B)/config | $$(dirs)
	$$(call say,CC,$$< ($(1)))
	$$(Q)$$(compile)
$$(B)/%.$(1).o: extra := $$(isa_$(1)) $$(vec_asan)
endef
$(foreach i,$(isa),$(eval $(call vec_rule,$(i))))

$(B)/src/host/host_ref64.o:   extra := -DDASS_REF_F64=1
$(B)/src/host/host_onednn.o:  extra := $(if $(filter 1,$(use_dnnl)),-DDASS_ONEDNN=1)
$(B)/src/cli/info.o:          extra := -DDASS_VERSION='"$(VERSION)"' -DDASS_BUILD_ID='"$(build_id)"' \
                                       -DDASS_BUILD_MODE='"$(MODE)"' -DDASS_HAVE_ONEDNN=$(use_dnnl) \
                                       -DDASS_HAVE_MPI=$(have_mpi) -DDASS_HAVE_CUDA_TOOLKIT=$(have_cuda)
$(B)/src/cli/info.o: $(B)/build_id
$(help_obj) $(test_src:%.c=$(B)/%.o): extra := -Itests

# The plugin's C objects are built once and linked into both libraries.
$(cuda_obj): extra := -fPIC -fvisibility=hidden $(cuda_inc) -I.

# The objects refuse to be built with a spill. NVWERROR=0 is the way back on a machine whose nvcc warns of more; it is
# left out of $(B)/gencode, so that what was built without warnings stays.
warn_spills := -Xptxas -warn-spills $(if $(filter 0,$(NVWERROR)),,-Werror all-warnings)
nv_flags  := -std=c++17 -O3 -lineinfo -Ikernels -Iinclude -Xcompiler -fPIC,-fvisibility=hidden \
             $(foreach a,$(GENCODE),-gencode arch=compute_$(a),code=sm_$(a)) \
             -gencode arch=compute_$(lastword $(GENCODE)),code=compute_$(lastword $(GENCODE))
cxx_flags := -std=gnu++17 $(filter-out -O3,$(opt_$(MODE))) $(if $(filter -O3,$(opt_$(MODE))),-O2) \
             -fno-math-errno -ffp-contract=off $(openmp) -Wall -Wextra -Wno-unknown-pragmas $(if $(filter 1,$(WERROR)),-Werror) \
             -fPIC -fvisibility=hidden -Ikernels -Iinclude $(cuda_inc)
CXX_      := $(if $(filter default,$(origin CXX)),g++,$(CXX))

$(B)/kernels/%.gpu.o: kernels/%.cu $(B)/config $(B)/gencode | $(dirs)
	$(call say,NVCC,$<)
	$(Q)$(NVCC) $(nv_flags) $(warn_spills) -MMD -MP -MF $(@:.o=.d) -c $< -o $@

# What ptxas says of the kernels, spills and all.
$(B)/kernels/%.ptxas: kernels/%.cu $(B)/config $(B)/gencode | $(dirs)
	$(call say,PTX,$<)
	$(Q)$(NVCC) $(nv_flags) -Xptxas -v -MMD -MP -MF $@.d -MT $@ -fatbin -o $@.fatbin $< \
	    >$@.log 2>&1 || { cat $@.log; exit 1; }
	$(Q)rm -f $@.fatbin && mv $@.log $@
-include $(wildcard $(B)/kernels/*.ptxas.d)

$(B)/kernels/%.simt.o: kernels/%.cu $(B)/config | $(dirs)
	$(call say,CXX,$< (for the CPU))
	$(Q)$(CXX_) $(cxx_flags) -MMD -MP -x c++ -c $< -o $@

$(B)/tests/%.o: tests/%.cc $(B)/config | $(dirs)
	$(call say,CXX,$<)
	$(Q)$(CXX_) $(cxx_flags) -MMD -MP -c $< -o $@

$(B)/gencode: FORCE | $(dirs)
	@printf '%s\n' '$(nv_flags)' > $@.new; $(call keep_if_same)

$(B)/libdass_cuda.so: $(cuda_obj) $(gpu_obj)
	$(call say,LD,$@)
	$(Q)$(CC) -shared $(opt_$(MODE)) $(LDFLAGS) -o $@ $^ $(cuda_libs) -lstdc++

$(B)/tests/fakecuda/%.o: extra := -fPIC $(cuda_inc) -I.
$(B)/tests/fakecuda/fake_cudart.o: cxx_flags += -DFAKE_DEVICE_JSON='"$(CURDIR)/tests/cudnn_plans/h100.json"'

# A libcuda with no devices: cuDNN compiles for the described card only when one is there. Its double alone is linked to
# it; the name is libcuda's own, so it lies in a folder of its own.
$(nodevice): tests/cudnn_plans/zero_devices.c | $(dirs)
	$(call say,LD,$@)
	$(Q)$(CC) -shared -fPIC -Wl,-soname,libcuda.so.1 -o $@ $<

$(B)/tests/libdass_fakecuda.so: $(cuda_obj) $(simt_obj) $(nodevice)
	$(call say,LD,$@)
	$(Q)$(CC) -shared $(opt_$(MODE)) $(filter -fopenmp,$(openmp)) $(LDFLAGS) -o $@ $(filter %.o,$^) $(fake_libs) \
	    $(deps_lib) -ljansson -lstdc++ -lm -ldl

$(B)/libdass.a: $(lib_obj) $(B)/objects
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcsD $@ $(lib_obj)

$(B)/libtest.a: $(help_obj) | $(dirs)
	$(call say,AR,$@)
	$(Q)rm -f $@ && $(AR) rcsD $@ $(help_obj)

$(B)/dass: $(cli_obj) $(B)/libdass.a
	$(call say,LD,$@)
	$(Q)$(call link)

ifeq ($(MODE),release)
$(O)/dass: $(B)/dass
	@ln -sf $(MODE)/dass $@
endif

$(B)/tests/test_%: $(B)/tests/test_%.o $(fake) $(if $(help_obj),$(B)/libtest.a) $(B)/libdass.a
	$(call say,LD,$@)
	$(Q)$(call link,-lcmocka)

# What checks the cuDNN module without a GPU: its double alone, and plans for described cards.
dnn_obj := $(patsubst %.c,$(B)/%.o,$(wildcard src/cuda/cuda_dnn*.c))
$(B)/tests/fakecuda/test_fake_cudnn: $(B)/tests/fakecuda/test_fake_cudnn.o $(B)/tests/fakecuda/fake_cudnn.o $(dnn_obj) \
                                     $(B)/libdass.a | $(nodevice)
	$(call say,LD,$@)
	$(Q)$(call link,-Wl$(comma)-rpath$(comma)'$$ORIGIN/../nodevice' $(fake_libs) -lcmocka)

$(B)/tests/cudnn_plans/%: $(B)/tests/cudnn_plans/%.o $(B)/tests/cudnn_plans/read_conv.o $(dnn_obj) $(B)/libdass.a | \
                          $(nodevice)
	$(call say,LD,$@)
	$(Q)$(call link,-Wl$(comma)-rpath$(comma)'$$ORIGIN/../nodevice' $(fake_libs))

# What runs on a machine with a card, where no libcuda but its own may be found; and on the doubles.
live_obj := $(B)/tests/cudnn_plans/live_plans.o $(B)/tests/cudnn_plans/read_conv.o $(dnn_obj) $(B)/libdass.a
$(B)/tests/cudnn_plans/live_plans: $(live_obj)
$(B)/tests/cudnn_plans/list_convs: $(B)/tests/cudnn_plans/list_convs.o $(dnn_obj) $(B)/libdass.a
$(B)/tests/cudnn_plans/live_plans $(B)/tests/cudnn_plans/list_convs:
	$(call say,LD,$@)
	$(Q)$(call link,$(cuda_libs))

$(B)/tests/fakecuda/live_plans: $(B)/tests/fakecuda/fake_cudart.o $(B)/tests/fakecuda/fake_cudnn.o $(live_obj) | $(nodevice)
	$(call say,LD,$@)
	$(Q)$(call link,-Wl$(comma)-rpath$(comma)'$$ORIGIN/../nodevice' $(fake_libs) -lstdc++)

$(B)/tests/cudnn_plans/%.o: extra := -Isrc/cuda $(cuda_inc)
$(B)/tests/fakecuda/test_fake_cudnn.o: extra := -Itests -Isrc/cuda $(cuda_inc)

$(fault_obj): extra := -fno-sanitize=all
$(fault): $(fault_obj)
	$(call say,LD,$@)
	$(Q)$(CC) $(LDFLAGS) -o $@ $^

$(fault_lib): tests/fault/failing_alloc.c tests/fault/failing_alloc.h | $(dirs)
	$(call say,LD,$@)
	$(Q)$(CC) -std=gnu11 -O1 -g $(warn) -shared -fPIC -o $@ $< -ldl

$(B)/tests/fuzz/%: $(B)/tests/fuzz/%.o $(B)/libdass.a
	$(call say,LD,$@)
	$(Q)$(call link,-fsanitize=fuzzer)

.SECONDARY: $(obj)
-include $(obj:.o=.d)

# ------------------------------------------------------------------------------------------------ checks and tests
# Targets that need another mode, or that may install what the probes above look for, start make once more.

JOBS  ?= $(shell nproc 2>/dev/null || echo 2)
again  = $(MAKE) --no-print-directory $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(JOBS))
suite  = MODE=$(MODE) DASS=$(DASS) $(fake:%=DASS_CUDA_PLUGIN=$(CURDIR)/%) PLANS=$(dir $(lastword $(dnn_tools))) \
         FAULT=$(fault) tests/run.sh $(tests) $(dnn_tests)

.PHONY: demo check test run-tests run-check faults asan ubsan tsan fuzz run-fuzz ptxas plans-all lint format golden bench \
        install clean setup help gpu-check gpu-deps
demo: ## set up, build, and run the demonstration (a few minutes)
	@tools/setup.sh build
	@$(again) all
	@DASS=$(DASS) tools/demo.sh

test: ## set up, build, and run all tests
	@tools/setup.sh build test
	@$(again) run-tests

check: ## the short tier: the same tests with smaller cases (a minute)
	@$(again) run-check

# What the suite is depends on the probes, so these are goals of a second make.
run-tests: all tests
	@$(suite)

run-check: all tests
	@DASS_TEST_SHORT=1 $(suite)

faults: all tests ## kill, fail and cut every call of every command, one at a time (hours)
	@DASS_TEST_LONG=1 DASS=$(DASS) $(fault)

asan: ## build with the address and undefined-behaviour sanitizers, and run the tests
	@ASAN_OPTIONS=detect_leaks=1:detect_stack_use_after_return=0:$$ASAN_OPTIONS \
	LSAN_OPTIONS=suppressions=$(CURDIR)/tests/lsan.supp:print_suppressions=0:$$LSAN_OPTIONS $(again) MODE=asan run-check

ubsan: ## build with the undefined-behaviour sanitizer, and run the tests
	@UBSAN_OPTIONS=print_stacktrace=1:$$UBSAN_OPTIONS $(again) MODE=ubsan run-check

tsan: ## build with the thread sanitizer (without OpenMP), and run the tests
	@TSAN_OPTIONS=halt_on_error=1:$$TSAN_OPTIONS $(again) MODE=tsan run-check

# Each fuzzer runs for its share of the time; inputs that break it are kept beside the program.
FUZZ_SECONDS ?= 60
fuzz_seeds := configs configs/genotypes
fuzz: ## build the fuzzers with clang and run them for FUZZ_SECONDS=60 in all
	@tools/setup.sh build fuzz
	@$(again) MODE=fuzz run-fuzz

run-fuzz: $(fuzzers)
	@[ -n '$(fuzzers)' ] || { echo 'no fuzzers in tests/fuzz'; exit 1; }
	@for f in $(fuzzers); do \
	    mkdir -p $$f.found; \
	    echo "  FUZZ $$f"; \
	    $$f -max_total_time=$$(($(FUZZ_SECONDS) / $(words $(fuzzers)))) -timeout=10 -rss_limit_mb=1024 \
	        -print_final_stats=1 -artifact_prefix=$$f.found/ $$f.found $(fuzz_seeds) >$$f.log 2>&1 || \
        { cat $$f.log; exit 1; }; \
	    sed -n 's/^stat::number_of_executed_units: */       inputs tried: /p' $$f.log; \
	done

ptxas_logs := $(if $(filter 1,$(have_cuda)),$(patsubst %.cu,$(B)/%.ptxas,$(wildcard kernels/*.cu)))
ptxas: $(ptxas_logs) ## registers, shared memory, spills and blocks of every kernel on the architectures of GENCODE
	@[ -n '$(ptxas_logs)' ] || { echo 'ptxas needs the CUDA toolkit: set CUDA_HOME, and CUDA to auto or 1'; exit 1; }
	@tests/ptxas.sh $(ptxas_logs)

plans-all: tests ## ask cuDNN for a plan of every convolution on every described card
	@[ -n '$(dnn_tools)' ] || { echo 'plans-all needs the CUDA toolkit with cuDNN, and MODE=release or debug'; exit 1; }
	@ALL=1 PLANS=$(dir $(lastword $(dnn_tools))) tests/cudnn_plans.sh

lint: ## check include direction, owners of libraries and memory, line lengths
	@tools/lint.sh

format: ## apply .clang-format to the C sources
	@tools/setup.sh format
	clang-format -i $(wildcard include/dass/*.h src/*/*.[ch] tests/*.[ch] tests/*/*.[ch])

gpu-check: ## on a machine with a GPU: build, tests, timings, sanitizers; results in OUT=bench (MINUTES=8, PARTS=)
	@$(PYTHON) tools/gpu_check.py --build $(O) $(DEPS:%=--deps %) $(OUT:%=--out %) $(MINUTES:%=--minutes %) \
	    $(PARTS:%=--parts %)

# What gpu_check.py runs beside the program and the plugin.
gpu_tests := $(foreach t,test_smoke test_ops test_device test_infer test_bench cudnn_plans/list_convs \
             cudnn_plans/live_plans,$(B)/tests/$(t))
.PHONY: gpu-programs carry
gpu-programs: $(gpu_tests)

# Where the CUDA toolkit is, the same programs go along as they are, for a machine where the build fails.
gpu-deps: ## gather in build/deps what a GPU machine without packages needs to build: copy it there, DEPS=build/deps
	@tools/setup.sh build test
	@tools/gpu_deps.sh $(O)/deps
	@$(again) O=$(O)/carry ONEDNN=0 MPI=0 DOUBLE=0 GENCODE=90 DEPS=$(O)/deps carry

ifneq ($(plugin),)
carry: all $(gpu_tests)
	@for f in $(B)/dass $(plugin) $(gpu_tests); do \
	    to=$(DEPS)/carried/$${f#$(B)/}; install -D -m 755 "$$f" "$$to" && strip -g "$$to" || exit 1; \
	done
	@printf '%s\n' '$(build_id)' >$(DEPS)/carried/commit
	@du -sh $(DEPS) | sed 's/^/gpu_deps: with the programs for sm_90: /'
else
carry:
	@echo 'gpu_deps: no CUDA toolkit with its libraries here, so no programs go along'
endif

golden: ## make the golden files of tests/golden anew (needs PyTorch; PYTHON=/usr/bin/python3 if that has it)
	$(PYTHON) tools/golden --out tests/golden

bench: all ## time one search step, with the share of every operation
	$(DASS) bench step --ops

install: all ## install below PREFIX=/usr/local (DESTDIR is honoured)
	install -D -m 755 $(B)/dass $(DESTDIR)$(PREFIX)/bin/dass
	install -d $(DESTDIR)$(PREFIX)/share/dass/configs/genotypes
	install -m 644 $(wildcard configs/*.yaml) $(DESTDIR)$(PREFIX)/share/dass/configs
	install -m 644 $(wildcard configs/genotypes/*) $(DESTDIR)$(PREFIX)/share/dass/configs/genotypes

clean: ## remove everything that was built
	rm -rf $(O)

setup: ## install what the build and the tests need (Debian), or say what is missing
	@tools/setup.sh build test

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

print-%:
	@printf '%s\n' '$($*)'
