# Two commands do everything on a fresh machine: `make demo` and `make test`.

SHELL := /bin/bash
PY := .venv/bin/python
# The stamp carries this folder's path: a moved checkout re-links its own scripts.
STAMP := .venv/.installed-$(shell printf '%s' "$(CURDIR)" | cksum | cut -d' ' -f1)
EXTRAS := fast,hf,analysis,gpu,dev

.PHONY: setup demo test check e2e docs tour fix bench bench-compare llama-server engines-test \
  engines-test-vllm gpu-check constraints prometheus clean

setup: $(STAMP)

# Installing compiles the lane: anew whenever a source of it has changed.
LANE := $(wildcard loadgen/lane/*.pyx loadgen/lane/*.pxi loadgen/lane/*.pxd loadgen/lane/*.h)

$(STAMP): pyproject.toml constraints.txt $(LANE)
	python3 -m venv .venv
	$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@$(PY) -m compileall -q agent analysis contract loadgen  # as an installed wheel is
	@rm -f .venv/.installed-* && touch $@

# Debian's Prometheus, when we may install it; otherwise the line that does.
prometheus:
	@command -v prometheus >/dev/null && command -v promtool >/dev/null || $(PY) tools/install_prometheus.py

demo:
	@begun=$$SECONDS; $(MAKE) --no-print-directory setup && echo "installed in $$((SECONDS - begun)) s"
	@exec $(PY) tools/demo.py

# Without tests/engines, whose server takes minutes to build: `make engines-test`.
test: setup prometheus
	$(PY) -m pytest --ignore=tests/engines

e2e: setup prometheus
	$(PY) -m pytest tests/e2e tests/contract

check: setup prometheus
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -c 'from importlinter.cli import lint_imports_command as lint; lint()'
	$(PY) tools/compile_catalog.py --check
	$(PY) tools/make_docs.py --check
	promtool check config prometheus/prometheus.yml

docs: setup
	$(PY) tools/compile_catalog.py
	$(PY) tools/make_docs.py

# Runs the README's tour for real and rewrites its output: half a minute of load on this machine.
tour: docs
	$(PY) tools/make_tour.py

fix: setup
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

# Start-up, CPU against the floor, stamps against a server of known token times; docs/bench.md.
# PAIRS=3 LASTING=3 is shorter. Memory, which takes minutes: $(PY) -m bench.memory
PAIRS ?= 7
LASTING ?= 5
bench: truth-server
	@missed=0; for part in "startup" "speed --pairs $(PAIRS)" "accuracy --seconds $(LASTING)"; do \
	  echo; echo "== $$part"; $(PY) -m bench.$$part || missed=1; done; exit $$missed

# loadgen beside other load generators, which it installs into ~/.cache/loadstone/peers (10 GB);
# docs/bench.md. Some ten minutes for each of REPEATS on a quiet machine.
REPEATS ?= 1
bench-compare: truth-server
	@$(PY) -m bench.compare --repeats $(REPEATS) --json .cache/bench/comparison.json

# The C server of the benches, compiled once per state of its source into .cache/bench.
truth-server: setup
	@$(PY) -c 'from bench.truth import build; build()'

# llama.cpp's server, compiled the first time: minutes; docs/engines.md.
llama-server: setup
	$(PY) -m tools.build_llama_server

# Against real servers.
engines-test: llama-server
	$(PY) -m pytest -m engine tests/engines

# Against vLLM on the processor, installed the first time: 2.5 GB; not in CI.
engines-test-vllm: setup
	$(PY) -m tools.install_vllm
	$(PY) -m pytest -m vllm tests/engines

# On a machine with a GPU: the tests that need one.
gpu-check:
	python3 -m pytest -m gpu tests/gpu

constraints: setup
	$(PY) tools/renew_constraints.py

clean:
	rm -rf .venv build dist *.egg-info loadgen/lane/*.c loadgen/lane/*.so
