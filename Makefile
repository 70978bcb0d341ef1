# Either target works on a fresh machine with git, make and Python >= 3.11: .venv is made on first use.
PYTHON ?= python3
export MPLBACKEND := Agg
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo bench docs test slow fuzz torture lint types clean

demo: .venv/installed
	.venv/bin/coadvise demo --output runs/demo

bench: .venv/installed
	.venv/bin/python benchmarks/run_all.py

# Pages, from docs/ into site/; neither this nor looking at them needs a network.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build

# Modules are compiled once, and not by each of the processes that tests start. One process more than there are cores,
# since tests wait: for processes that they start, and for time to pass.
test: export PYTHONDONTWRITEBYTECODE =
test: .venv/installed
	.venv/bin/python -m pytest -n $$(.venv/bin/python -c 'import os; print(min(8, (os.cpu_count() or 1) + 1))') \
	  --dist loadfile --no-loadscope-reorder tests

# What takes longer: processes that are killed, compilers, and more cases of what the tests above cover.
slow: .venv/installed
	.venv/bin/python -m pytest -n logical --maxprocesses 8 --dist loadfile -m slow tests

# 10,000 damaged inputs of each format, and 100 kills; what came of them is written to results/.
fuzz: .venv/installed
	cd tests && ../.venv/bin/python -m fuzz

torture: .venv/installed
	cd tests && ../.venv/bin/python -m torture

lint: .venv/installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: .venv/installed
	.venv/bin/mypy

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "coadvise needs Python >= 3.11; choose one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "Installing into .venv (once; PyTorch is large, this takes a few minutes) ..."
	$(PYTHON) -m venv .venv
	.venv/bin/python tools/install.py
	@# By all cores, where pip would take one, and without the packages' own tests. Some bring templates that are no Python.
	@.venv/bin/python -m compileall -qq -j 0 -x /tests/ .venv/lib || true
	@touch $@

clean:
	rm -rf .venv build dist site src/*.egg-info
