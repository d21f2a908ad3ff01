## capshm: CHERI capabilities between real Linux processes, emulated
##
##   make test      the tests, all but the longest
##   make compare   what each policy costs, under several workloads: the main job; about six minutes
##   make bench     every figure against its limit
##
##   make lint      formats, types, and the warnings of gcc and clang
##   make pictures  the pictures of the README, from real machines of this version
##   make asan      the core under the address and undefined-behaviour sanitizers: C programs, then Python tests
##   make soak      what takes longer than half an hour in all: the thread sanitizer, then the tests marked soak
##   make clean     removes all that make made: .venv, build, caches
##
## Needed before: Python 3.11 or later with venv and headers, a C compiler, make. Everything else is set up in .venv by
## the first command, and again only when its list (requirements/dev.txt) or the sources in native/ have changed.
##
## Variables:  make test PYTEST_ARGS="-k encoding -x"       further arguments for pytest
##             make test PYTEST_ARGS='-m "not slow and not soak"'
##             make test JOBS=4                             how many tests run at once (2)
##             make test PYTHON=python3.13                  which Python .venv is made with (python3)
##             make asan CC=clang                           which compiler (cc)

PYTHON ?= python3
JOBS ?= 2
PYTEST_ARGS ?=
# Where sanitizers look at Python tests: those that exercise the core itself. Machines are left out: their processes fork
# with several threads, and the sanitizer's allocator does not survive that; and so are libraries that die of its runtime.
ASAN_TESTS ?= $(filter-out tests/unit/test_model% tests/unit/test_bench% tests/unit/test_import% tests/unit/test_machine% \
    tests/unit/test_lab% tests/unit/test_commands% tests/unit/test_broker% tests/unit/test_allocator% \
    tests/unit/test_quarantine% tests/unit/test_replay% tests/unit/test_perfetto% tests/unit/test_top% tests/unit/test_image% \
    tests/unit/test_report% tests/unit/test_notebook% tests/unit/test_density% \
    tests/properties/test_model_address_space% tests/properties/test_machine% tests/properties/test_allocator% \
    tests/faults/test_machine% tests/faults/test_load% tests/faults/test_broker% \
    tests/faults/test_going_round% tests/faults/test_record% tests/faults/test_snapshot% tests/unit/test_compare% \
    tests/faults/test_compare% tests/faults/test_revocation% tests/faults/test_remote% tests/faults/test_stoppers% \
    tests/faults/test_run_out% tests/faults/test_pass_deaths% tests/faults/test_vmar% tests/properties/test_vmar%, \
    $(wildcard tests/unit/test_*.py tests/properties/test_*.py tests/faults/test_*.py))

VENV := .venv
PY := $(VENV)/bin/python
CMAKE := $(PY) -m cmake
MADE := $(VENV)/made
TOOLS := $(MADE)/tools
CORE := $(MADE)/core

# What lint reads, as far as it is there.
PYTHON_TREES := $(wildcard capshm tests bench native docs examples)
C_TREES := $(wildcard native tests bench examples)

.DEFAULT_GOAL := help
.PHONY: help test compare bench pictures lint lint-python lint-types lint-format lint-compilers asan soak clean
.NOTPARALLEL:
.DELETE_ON_ERROR:

help:
	@sed -n 's/^## \{0,1\}//p' Makefile

# --- set-up -------------------------------------------------------------------------------------------------------------

# An environment knows its own place. One that was moved, copied along with the tree, or whose Python is gone, is made anew:
# tests in a copied tree would else run the sources of the first.
ifneq ($(MAKECMDGOALS),clean)
$(shell test -x $(PY) && test "$$(cat $(MADE)/venv 2>/dev/null)" = "$(CURDIR)" || rm -rf $(MADE))
endif

$(MADE)/venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo 'capshm needs Python 3.11 or later; say which with PYTHON=...' >&2; exit 1; }
	@$(PYTHON) -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))' \
	    || { echo "$(PYTHON) has no headers; on Debian they are in the package python3-dev" >&2; exit 1; }
	@command -v $(CC) >/dev/null || { echo 'capshm needs a C compiler; say which with CC=...' >&2; exit 1; }
	@echo '== making $(VENV)'
	@rm -rf build # its directories name the place and the Python, too
	@$(PYTHON) -m venv --clear $(VENV)
	@mkdir -p $(MADE) && printf '%s' '$(CURDIR)' >$@

# A stamp is as old as the start of its step, so that what changes meanwhile is seen the next time.
$(TOOLS): $(MADE)/venv requirements/dev.txt
	@echo '== installing the pinned tools of requirements/dev.txt (a minute the first time)'
	@touch $@.new
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements/dev.txt
	@mv $@.new $@

# The folder itself stands for files that came or went. Python sources need no step: the install points at them.
$(CORE): $(TOOLS) pyproject.toml native $(wildcard native/* native/*/* native/*/*/*)
	@echo '== building the core'
	@touch $@.new
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps --editable .
	@$(PY) -m pip check --disable-pip-version-check >$@.log \
	    || { cat $@.log; echo 'requirements/dev.txt does not hold what pyproject.toml asks for' >&2; exit 1; }
	@mv $@.new $@

# --- commands -----------------------------------------------------------------------------------------------------------

# pytest ends with 5 when it collected no test: a failure here, and one that says so.
pytest = $(PY) -m pytest $(1) || { status=$$?; test $$status != 5 || echo 'no test was run' >&2; exit $$status; }

# A build directory belongs to one compiler; the name without addition is that of cc.
build-for = build/$(1)$(if $(filter-out cc,$(CC)),-$(notdir $(CC)))

# configure-and-build: directory, options. Prints only what goes wrong.
configure-and-build = $(CMAKE) -S native -B $(1) -G Ninja -D Python_EXECUTABLE="$(CURDIR)/$(PY)" \
	-D CMAKE_MAKE_PROGRAM="$(CURDIR)/$(VENV)/bin/ninja" -D CAPSHM_TOOLS=ON $(2) >$(1).log 2>&1 \
	&& $(CMAKE) --build $(1) >>$(1).log 2>&1 || { cat $(1).log; exit 1; }

# run-programs: build directory. The C programs of tests/native that were built there, one after the other.
run-programs = for program in $(1)/tests/native/*; do \
	    test -f "$$program" -a -x "$$program" || continue; \
	    echo "== $$program"; "$$program" || exit 1; \
	done

test: $(CORE)
	@$(call pytest,-n $(JOBS) $(PYTEST_ARGS))

compare: $(CORE)
	@$(PY) -m capshm compare

bench: $(CORE)
	@$(PY) -m bench

# Each program makes one, in docs.
pictures: $(CORE)
	@for program in docs/pictures/*.py; do echo "== $$program"; $(PY) "$$program" || exit 1; done

# In parts, so that make --keep-going shows the findings of all.
lint: lint-python lint-types lint-format lint-compilers

lint-python: $(CORE)
	@echo '== ruff'
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

lint-types: $(CORE)
	@echo '== mypy'
	@$(PY) -m mypy $$(find $(PYTHON_TREES) -name '*.py')

lint-format: $(CORE)
	@echo '== clang-format'
	@find $(C_TREES) -name '*.[ch]' -exec $(VENV)/bin/clang-format --dry-run -Werror {} +

lint-compilers: $(CORE)
	@mkdir -p build
	@echo '== compiling everything, and the portable path, with $(CC)'
	@$(call configure-and-build,$(call build-for,native),-D CMAKE_C_COMPILER=$(CC))
	@$(call configure-and-build,$(call build-for,portable),-D CMAKE_C_COMPILER=$(CC) -D CAPSHM_PORTABLE=ON)
	@if ! command -v clang >/dev/null; then \
	    echo '== clang is not on this machine: its warnings were NOT checked'; \
	else \
	    echo '== the same with clang'; \
	    { $(call configure-and-build,build/clang,-D CMAKE_C_COMPILER=clang); } && \
	    { $(call configure-and-build,build/clang-portable,-D CMAKE_C_COMPILER=clang -D CAPSHM_PORTABLE=ON); } \
	fi

# Python itself has no sanitizer in it, so the runtime is preloaded, and its leaks are not ours to report.
asan: $(CORE)
	@mkdir -p build
	@echo '== building the core with address and undefined-behaviour sanitizers'
	@$(call configure-and-build,$(call build-for,asan),-D CMAKE_C_COMPILER=$(CC) -D CAPSHM_SANITIZE=address$(comma)undefined)
	@$(call run-programs,$(call build-for,asan))
	@runtime=$$($(PY) -c 'from native.variants import sanitizer_runtime; print(sanitizer_runtime("asan", compiler="$(CC)"))'); \
	test -f "$$runtime" || { echo '$(CC) has no address sanitizer runtime' >&2; exit 1; }; \
	echo '== Python tests on that core'; \
	export CAPSHM_CORE="$$(echo "$(CURDIR)"/$(call build-for,asan)/_core.*so)" LD_PRELOAD="$$runtime" PYTHONMALLOC=malloc \
	    ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1; \
	$(call pytest,-n $(JOBS) $(wildcard $(ASAN_TESTS)) $(PYTEST_ARGS))

# The thread sanitizer sees neither inline assembly nor membarrier, so it looks at the portable path.
soak: $(CORE)
	@mkdir -p build
	@echo '== building the portable core with the thread sanitizer'
	@$(call configure-and-build,$(call build-for,tsan),-D CMAKE_C_COMPILER=$(CC) -D CAPSHM_SANITIZE=thread -D CAPSHM_PORTABLE=ON)
	@$(call run-programs,$(call build-for,tsan))
	@$(call pytest,-n $(JOBS) -m soak -o timeout=0 $(PYTEST_ARGS))

clean:
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find capshm tests bench native docs examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

comma := ,
