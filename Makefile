# Two commands do everything on a fresh machine: `make demo` and `make test`.

SHELL := /bin/bash
PY := .venv/bin/python
# The stamp carries this folder's path: a moved checkout re-links its own scripts.
STAMP := .venv/.installed-$(shell printf '%s' "$(CURDIR)" | cksum | cut -d' ' -f1)
EXTRAS := fast,hf,analysis,gpu,dev

.PHONY: setup demo test check e2e docs tour fix bench gpu-check constraints prometheus clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(PY) || python3 -m venv .venv
	$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@rm -f .venv/.installed-* && touch $@

# Debian's Prometheus, when we may install it; otherwise the line that does.
prometheus:
	@command -v prometheus >/dev/null && command -v promtool >/dev/null || $(PY) tools/install_prometheus.py

demo:
	@begun=$$SECONDS; $(MAKE) --no-print-directory setup && echo "installed in $$((SECONDS - begun)) s"
	@exec $(PY) tools/demo.py

test: setup prometheus
	$(PY) -m pytest

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

bench: setup
	$(PY) bench/startup.py

# On a machine with a GPU: the tests that need one.
gpu-check:
	python3 -m pytest -m gpu tests/gpu

constraints: setup
	$(PY) tools/renew_constraints.py

clean:
	rm -rf .venv build dist *.egg-info
