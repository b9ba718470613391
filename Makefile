# What people and .ci/run call. Everything is built in release, so that all targets share their artefacts.

CARGO ?= cargo
DEFER := target/release/defer
# Items that `make demo` streams; there are 8 photos, so they go round.
ITEMS ?= 200
REPEAT := $(shell expr \( $(ITEMS) + 7 \) / 8)

.PHONY: build demo test bench bench-codecs experiments check docs clean

build:
	$(CARGO) build --release --locked -p cli

## Four nodes on this machine, a trained model cut over them, some 200 photos through the chain.
demo: build
	@$(DEFER) engine install || echo "demo: ONNX Runtime is not there, going on with the built-in engine rten: this model takes about 5 times longer"
	$(DEFER) run --spawn 4 models/efficientnet_lite0.onnx models/photos --repeat $(REPEAT) --whole

## All tests. Those that need the ONNX Runtime library are left out only when it cannot be fetched, the one over
## network namespaces only where they cannot be made (without root, or without iproute2), those on emulated devices
## only where CPU quotas cannot be set, those on emulated links only where links cannot be shaped.
test: export ORT_DISABLE_TELEMETRY = 1
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
	if ! { $(CARGO) build --release --locked -p testbed && target/release/defer-testbed quotas; } >/dev/null 2>&1; then \
	    echo "test: *** NO CPU QUOTAS (needs root and control groups): THE TESTS ON EMULATED DEVICES DO NOT RUN ***"; \
	    export DEFER_TEST_WITHOUT_QUOTAS=1; \
	fi; \
	if ! target/release/defer-testbed links --probe >/dev/null 2>&1; then \
	    echo "test: *** NO SHAPED LINKS (needs root, control groups, ip and tc from iproute2, and HTB in the kernel): THE TESTS ON EMULATED LINKS DO NOT RUN ***"; \
	    export DEFER_TEST_WITHOUT_LINKS=1; \
	fi; \
	(set -x; $(CARGO) test --release --locked --workspace --no-fail-fast); status=$$?; \
	test -z "$$DEFER_TEST_WITHOUT_ONNXRUNTIME" || echo "test: *** the tests that need ONNX Runtime did not run ***"; \
	test -z "$$DEFER_TEST_WITHOUT_ROOT" || echo "test: *** the test over three machines did not run ***"; \
	test -z "$$DEFER_TEST_WITHOUT_QUOTAS" || echo "test: *** the tests on emulated devices did not run ***"; \
	test -z "$$DEFER_TEST_WITHOUT_LINKS" || echo "test: *** the tests on emulated links did not run ***"; \
	exit $$status

bench: export ORT_DISABLE_TELEMETRY = 1
bench: build
	$(CARGO) bench --locked --workspace --benches

## The table of codecs, on made feature maps or on the activations (.npy) in the folder DEFER_ACTIVATIONS.
bench-codecs:
	$(CARGO) bench --locked -p wire --bench codec

## The tables in experiments/, which need nothing but the costs that are there.
experiments:
	$(CARGO) run --release --locked -p testbed -- placement

## Format, lints, documentation.
check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --locked --workspace --all-targets -- -D warnings
	$(MAKE) docs

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --release --locked --workspace --no-deps

clean:
	$(CARGO) clean
