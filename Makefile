# What people and .ci/run call. Everything is built in release, so that all targets share their artefacts.

CARGO ?= cargo
# Where cargo puts what it builds.
TARGET := $(or $(CARGO_TARGET_DIR),$(CARGO_BUILD_TARGET_DIR),target)
DEFER := $(TARGET)/release/defer
TESTBED := $(TARGET)/release/defer-testbed
# Items that `make demo` streams; there are 8 photos, so they go round.
ITEMS ?= 200
# How long `make fuzz` takes for each target.
FUZZ_SECONDS ?= 60
# Experiments that `make evaluation` runs: those that the claims of the report stand on.
EVALUATION ?= resnet50
FRESH ?=
# What `make build` builds. All binaries together have other features of some crates than the command alone, and those of
# all tests: whoever goes on to test builds for that at once, and nothing twice.
BUILD ?= -p cli
FUZZ_TARGETS ?= $(notdir $(wildcard fuzz/corpus/*))
REPEAT := $(shell expr \( $(ITEMS) + 7 \) / 8)

.PHONY: build demo test short vectors fuzz bench bench-codecs experiments evaluation check docs clean

build:
	$(CARGO) build --release --locked $(BUILD)

## Four nodes on this machine, a trained model cut over them, some 200 photos through the chain.
demo: build
	@$(DEFER) engine install || echo "demo: ONNX Runtime is not there, going on with the built-in engine rten: this model takes about 5 times longer"
	$(DEFER) run --spawn 4 models/efficientnet_lite0.onnx models/photos --repeat $(REPEAT) --whole

## All tests. Those that need the ONNX Runtime library are left out only when it cannot be fetched, the one over
## network namespaces only where they cannot be made (without root, or without iproute2), those on emulated devices
## only where CPU quotas cannot be set, those on emulated links only where links cannot be shaped.
test: export ORT_DISABLE_TELEMETRY = 1
test: BUILD = --workspace --bins
test: build
	@if library=$$($(DEFER) engine install); then \
	    export DEFER_ONNXRUNTIME="$$library"; \
	else \
	    echo "test: *** ONNX RUNTIME COULD NOT BE FETCHED: THE TESTS THAT NEED IT DO NOT RUN ***"; \
	    export DEFER_TEST_WITHOUT_ONNXRUNTIME=1; \
	fi; \
	if ! { ip netns add defer-probe-$$$$ && ip netns del defer-probe-$$$$; } 2>/dev/null; then \
	    echo "test: *** NO NETWORK NAMESPACES (needs root, and ip from iproute2): THE TEST OVER THREE MACHINES DOES NOT RUN ***"; \
	    export DEFER_TEST_WITHOUT_ROOT=1; \
	fi; \
	if ! $(TESTBED) quotas >/dev/null 2>&1; then \
	    echo "test: *** NO CPU QUOTAS (needs root and control groups): THE TESTS ON EMULATED DEVICES DO NOT RUN ***"; \
	    export DEFER_TEST_WITHOUT_QUOTAS=1; \
	fi; \
	if ! $(TESTBED) links --probe >/dev/null 2>&1; then \
	    echo "test: *** NO SHAPED LINKS (needs root, control groups, ip and tc from iproute2, and HTB in the kernel): THE TESTS ON EMULATED LINKS DO NOT RUN ***"; \
	    export DEFER_TEST_WITHOUT_LINKS=1; \
	fi; \
	(set -x; $(CARGO) test --release --locked --workspace --no-fail-fast); status=$$?; \
	if command -v python3 >/dev/null; then \
	    $(MAKE) --no-print-directory vectors || status=1; \
	else \
	    echo "test: *** NO PYTHON 3: WHETHER OTHERS CAN READ OUR FRAMES IS NOT CHECKED ***"; \
	fi; \
	test -z "$$DEFER_TEST_WITHOUT_ONNXRUNTIME" || echo "test: *** the tests that need ONNX Runtime did not run ***"; \
	test -z "$$DEFER_TEST_WITHOUT_ROOT" || echo "test: *** the test over three machines did not run ***"; \
	test -z "$$DEFER_TEST_WITHOUT_QUOTAS" || echo "test: *** the tests on emulated devices did not run ***"; \
	test -z "$$DEFER_TEST_WITHOUT_LINKS" || echo "test: *** the tests on emulated links did not run ***"; \
	exit $$status

## The short form of the evaluation: 1, 2 and 4 devices that are emulated without root, and how much faster four are.
short: export ORT_DISABLE_TELEMETRY = 1
short: BUILD = --workspace --bins
short: build
	@library=$$($(DEFER) engine install) && export DEFER_ONNXRUNTIME="$$library" && set -x && \
	    $(CARGO) test --release --locked -p testbed --test short

## The test vectors of the wire format, by a decoder that shares no code with ours.
vectors:
	python3 docs/wire-vectors/check.py

## Each fuzz target for FUZZ_SECONDS, on what is in fuzz/corpus/. What is found is kept in fuzz/artifacts/; mend it, and
## copy the file into fuzz/corpus/, where `make test` tries it, too. Needs a nightly toolchain and a C++ compiler.
fuzz:
	@rustup run nightly rustc --version >/dev/null 2>&1 \
	    || { echo "fuzz: needs a nightly toolchain: rustup toolchain install nightly" >&2; exit 1; }
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-fuzz
	@for target in $(FUZZ_TARGETS); do \
	    mkdir -p fuzz/target/corpus/$$target; \
	    (set -x; rustup run nightly cargo fuzz run $$target fuzz/target/corpus/$$target fuzz/corpus/$$target -- \
	        -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=64) || exit 1; \
	done

bench: export ORT_DISABLE_TELEMETRY = 1
bench: build
	$(CARGO) bench --locked --workspace --benches

## The table of codecs on what crosses the links of the vendored models, and of the ONNX files in CODEC_MODELS.
bench-codecs: export DEFER_ACTIVATIONS = $(CURDIR)/target/activations
bench-codecs:
	$(CARGO) bench --locked -p pipeline --bench activations -- $(DEFER_ACTIVATIONS) \
	    $(CURDIR)/models/efficientnet_lite0.onnx $(CURDIR)/models/resnet20_mnist.onnx $(abspath $(CODEC_MODELS))
	$(CARGO) bench --locked -p wire --bench codec

## The tables in experiments/, which need nothing but the costs that are there.
experiments:
	$(CARGO) run --release --locked -p testbed -- placement

## The evaluation: runs the experiments whose figures stand at its head, about an hour on two cores, and writes
## docs/evaluation.md and .html. Goes on where it was ended; FRESH=--fresh begins anew. All that are run on devices take
## many hours: EVALUATION="resnet50 vgg paper uneven codecs transformers large energy latency". Needs root.
evaluation: export ORT_DISABLE_TELEMETRY = 1
evaluation: BUILD = --workspace --bins
evaluation: build
	@library=$$($(DEFER) engine install) && export DEFER_ONNXRUNTIME="$$library" && set -x && \
	    for experiment in $(EVALUATION); do \
	        $(TESTBED) run $(FRESH) experiments/$$experiment.toml || exit 1; \
	    done && $(TESTBED) report

## Format, lints, documentation.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	$(MAKE) docs

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --workspace --no-deps

clean:
	$(CARGO) clean
