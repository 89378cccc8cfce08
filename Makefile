# Every target sets up what it needs: a virtual environment in .venv, and for `test` Debian's etcd-server.
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(CURDIR)/$(VENV)/etcd/usr/bin:$(CURDIR)/$(VENV)/cpulimit/usr/bin:$(CURDIR)/$(VENV)/prometheus/usr/bin:$(PATH)
# The helpers of the tests are modules too.
export MYPYPATH := tests

.PHONY: help demo test chaos consistency lint format proto proto-release bench clean

help:
	@echo "make demo    watch fleet-wide shares at work on this machine (about 20 s)"
	@echo "make test    lint, types, import rules, generated code, and all tests"
	@echo "make chaos   kill and stop its parts at random instants; TRIALS=200 for a short run"
	@echo "make consistency  kill controllers and etcd members under writes; WRITES=100 for a short run"
	@echo "make lint    the checks without the tests"
	@echo "make bench   reproduce the experiments; QUICK=1 for a short run"
	@echo "make proto   regenerate the code from proto/"

$(VENV)/.installed: pyproject.toml tools/setup_venv.sh
	@tools/setup_venv.sh $(VENV) .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml tools/setup_venv.sh
	@tools/setup_venv.sh $(VENV) '.[dev]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	@$(BIN)/utilctl demo

test: lint
	@tools/setup_etcd.sh $(VENV)/etcd
	@tools/setup_helm.sh $(VENV)/helm $(BIN)/python
	@tools/setup_prometheus.sh $(VENV)/prometheus
	@tools/setup_systemd.sh $(VENV)/systemd
	@tools/setup_podman.sh
	@tools/setup_image_base.sh localhost/utilctl-base:test
	$(BIN)/pytest -n 2 -q -m "not quiet"
	$(BIN)/pytest -q -m quiet

# The figures of the long form go into docs/safety.md. SEED repeats the random choices of an earlier run.
LONG := 2000
TRIALS ?= $(LONG)
PEER_TRIALS ?= 50
SEED ?=
chaos: $(VENV)/.installed-dev
	@tools/setup_etcd.sh $(VENV)/etcd
	@tools/setup_cpulimit.sh $(VENV)/cpulimit
	PYTHONPATH=tests $(BIN)/python -m chaos --trials $(TRIALS) --peer-trials $(PEER_TRIALS) \
		$(if $(SEED),--seed $(SEED)) \
		$(if $(filter $(LONG),$(TRIALS)),--json docs/benchmarks/chaos.json --page docs/safety.md)

WRITES ?= 1000
consistency: $(VENV)/.installed-dev
	@tools/setup_etcd.sh $(VENV)/etcd
	PYTHONPATH=tests $(BIN)/python -m chaos.consistency --writes $(WRITES) $(if $(SEED),--seed $(SEED))

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/generate_proto.py --check
	$(BIN)/buf lint
	$(BIN)/buf breaking --against proto/released.binpb

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

proto: $(VENV)/.installed-dev
	$(BIN)/python tools/generate_proto.py

# After a release: later changes are checked against this state of the wire contract.
proto-release: $(VENV)/.installed-dev
	$(BIN)/buf build -o proto/released.binpb

bench: $(VENV)/.installed-dev
	@tools/setup_bench.sh $(VENV)
	$(BIN)/python -m bench.run $(if $(QUICK),--quick)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
