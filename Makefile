# Every target sets the machine up first when that is needed; `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV ?= .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.meshnode-setup
ROOMS := $(wildcard agent bpf controller installer mesh waypoint tests bench scripts setup.py)
# Whatever changes what set-up would install or compile.
SETUP_INPUTS := pyproject.toml scripts/setup scripts/packages.txt \
	$(wildcard setup.py mesh/http2/*.c mesh/http2/*.h mesh/http2/*build*.py \
	mesh/tunnel/native/[!_]*.c mesh/tunnel/native/*.h mesh/tunnel/native/build.py \
	waypoint/lane/[!_]*.c waypoint/lane/*.h waypoint/lane/build.py \
	waypoint/shared/[!_]*.c waypoint/shared/*.h waypoint/shared/build.py)

# A target that needs a kernel says so at once instead of failing in the middle.
define need_root
	@[ "$$(id -u)" -eq 0 ] || { echo "needs root: run \`sudo make $@\`" >&2; exit 1; }
endef

.PHONY: help setup demo test test-slow soak test-unit test-netns conformance sanitize sanitize-threads check docs reference man fmt lint types layers c-check bench bench-quick bench-waypoint bench-scale test-kernels cluster-binaries cluster-images cluster cluster-down test-kube e2e clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## distribution packages, kernel headers, virtual environment (quick the second time)

$(READY): $(SETUP_INPUTS)
	@VENV=$(abspath $(VENV)) scripts/setup

demo: $(READY) ## two nodes, real applications, a waypoint, every claim checked (KEEP=1 stays up)
	$(need_root)
	@$(PY) -m tests.demo $(if $(filter-out 0,$(KEEP)),--keep)

test: $(READY) ## every test but the slow ones: unit, contract, namespaces, interoperability
	$(need_root)
	$(PY) -m pytest -m "not slow" $(PYTEST_ARGS)

test-slow: $(READY) ## the slow ones: gigabytes, thousands of connections, minutes of load
	$(need_root)
	$(PY) -m pytest -m slow $(PYTEST_ARGS)

soak: $(READY) ## five minutes of pods that come and go, ten without the API server (SOAK_ARGS='--seconds 60')
	$(need_root)
	$(PY) -m tests.kube.soak $(SOAK_ARGS)

test-unit: $(READY) ## the cores only; no root, seconds
	$(PY) -m pytest tests/unit $(PYTEST_ARGS)

test-netns: $(READY) ## real kernel, real sockets, own namespaces
	$(need_root)
	$(PY) -m pytest tests/netns $(PYTEST_ARGS)

conformance: $(READY) ## the Gateway API's cases with real bytes; writes docs/conformance.md
	$(PY) -m tests.contract.conformance

sanitize: $(READY) ## all native modules under AddressSanitizer and UBSan, minutes
	$(need_root)
	@VENV=$(abspath $(VENV)) scripts/sanitize $(PYTEST_ARGS)

sanitize-threads: $(READY) ## what threads share in native modules, under ThreadSanitizer
	$(need_root)
	@VENV=$(abspath $(VENV)) scripts/sanitize --threads $(PYTEST_ARGS)

check: lint types layers c-check docs ## what CI gates on besides the tests; under two minutes

fmt: $(READY) ## format the Python
	$(PY) -m ruff format $(ROOMS)
	$(PY) -m ruff check --fix $(ROOMS)

lint: $(READY) ## format and lint rules, sizes of functions and modules
	$(PY) -m ruff format --check $(ROOMS)
	$(PY) -m ruff check $(ROOMS)
	$(PY) scripts/size_check.py

types: $(READY) ## mypy, strict
	$(PY) -m mypy

layers: $(READY) ## imports go one way
	$(VENV)/bin/lint-imports

c-check: $(READY) ## the shared C header compiles by itself without a warning
	$(PY) scripts/c_check.py

docs: $(READY) ## the documentation as a site in build/site; a broken link fails it
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict --quiet

reference: $(READY) ## write the reference pages of docs/ from the code
	$(PY) -m agent.cli.pages.reference docs
	$(PY) -m agent.cli.pages.reference_pages docs/reference

man: $(READY) ## manual pages of every command in build/man
	$(PY) -m agent.cli.pages.manpages build/man

bench: $(READY) ## every benchmark beside its peers, 15 minutes; writes docs/benchmarks.md
	$(need_root)
	$(PY) -m bench $(BENCH_ARGS)

bench-quick: $(READY) ## the same, small and short: 2 minutes, only shown
	$(need_root)
	$(PY) -m bench --quick $(BENCH_ARGS)

bench-waypoint: $(READY) ## the waypoint beside Envoy and nginx; needs no root
	$(PY) -m bench.waypoint $(BENCH_ARGS)

bench-scale: $(READY) ## time and memory of a node that reads a large cluster (PODS=10000)
	$(PY) -m bench.scale $(PODS)

test-kernels: $(READY) ## the capture tests on Debian's kernels 6.1 and 6.12, in software emulation (KERNELS=6.1)
	$(need_root)
	$(PY) -m scripts.kernels $(KERNELS)

cluster-binaries: ## programs of a real cluster, built from pinned sources (ten minutes the first time)
	scripts/cluster/binaries

cluster-images: ## images of the cluster, built without a registry
	$(need_root)
	scripts/cluster/images

cluster: $(READY) ## a real cluster of two nodes on this machine, with meshnode on it
	$(need_root)
	@scripts/cluster/up && VENV=$(abspath $(VENV)) scripts/cluster/meshnode

cluster-down: ## the cluster goes without a trace
	$(need_root)
	@scripts/cluster/down

test-kube: $(READY) ## against a real API server; after `make cluster-binaries`
	KUBEBUILDER_ASSETS=$(abspath build/cluster/bin) $(PY) -m pytest tests/kube/real tests/kube/test_contract.py $(PYTEST_ARGS)

e2e: ## the smoke test of a cluster: make e2e KUBECONFIG=FILE
	@KUBECONFIG="$(KUBECONFIG)" vagrant/smoke

clean: ## caches, builds and whatever a killed test or demo left behind
	@if [ -x $(PY) ] && [ "$$(id -u)" -eq 0 ]; then $(PY) -m tests.lab.sweep; \
	elif [ -d /run/meshnode-lab ]; then echo "leftovers of tests stay: run \`sudo make clean\`"; fi
	rm -rf build dist .cache/programs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find $(ROOMS) -name __pycache__ -type d -prune -exec rm -rf {} +
