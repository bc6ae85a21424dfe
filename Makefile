# make test      set everything up and run the whole suite      TESTS=relaygate.test.test_x  TRIALFLAGS=-j2
# make check     linters, types, news fragments
# make demo      the gateway at work, on this machine alone      ARGS=--keep for a try by hand
# make bench     beside other relays, a run of 25 minutes     ARGS=--quick for a look; see bench/README.md
# make coverage  the suite, with a report of what it did not reach
# make docs      the site and the man pages, into build/; a broken link is an error
# make news      build NEWS from the fragments (VERSION: see relaygate/__init__.py)
# make wheel     build the source archive and the wheel into dist/
# make clean     remove everything that the other targets made

PYTHON ?= python3
TESTS ?= relaygate
TRIALFLAGS ?=
ARGS ?=
BIN = .venv/bin

# twistd finds a plugin of an editable install only in setuptools' "compat" mode.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--config-settings editable_mode=compat

.PHONY: test check demo docs bench coverage news wheel clean
.DELETE_ON_ERROR:

test: .venv/test.stamp
	$(BIN)/trial $(TRIALFLAGS) $(TESTS)

check: .venv/dev.stamp
	$(BIN)/ruff check relaygate twisted bench docs
	$(BIN)/ruff format --check --quiet relaygate twisted bench docs
	$(BIN)/mypy relaygate bench
	$(BIN)/towncrier build --draft --version unreleased >/dev/null

demo: .venv/test.stamp
	$(BIN)/python -m relaygate.demo $(ARGS)

bench: .venv/bench.stamp
	$(BIN)/python -m bench $(ARGS)

coverage: .venv/test.stamp
	$(BIN)/coverage erase
	$(BIN)/coverage run -m twisted.trial $(TRIALFLAGS) $(TESTS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

docs: .venv/dev.stamp
	$(BIN)/python docs/generate.py
	$(BIN)/sphinx-build -q -E -W --keep-going -b html docs build/site
	$(BIN)/sphinx-build -q -W --keep-going -b man docs build/man

news: .venv/dev.stamp
	$(BIN)/towncrier build --yes --version "$$($(BIN)/python -c 'import relaygate; print(relaygate.__version__)')"

wheel: .venv/dev.stamp
	$(BIN)/python -m build

clean:
	rm -rf .venv build dist htmlcov *.egg-info _trial_temp* .coverage* .hypothesis .mypy_cache .ruff_cache
	rm -f twisted/plugins/dropin.cache
	find relaygate twisted bench -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "relaygate needs Python 3.11 or newer; name one with PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv .venv \
		|| { rm -rf .venv; echo "python's venv module is incomplete here (Debian: install python3-venv)" >&2; exit 1; }

.venv/test.stamp: setup.cfg pyproject.toml | .venv/bin/pip
	$(INSTALL) --editable '.[test]'
	touch $@

.venv/dev.stamp: .venv/test.stamp
	$(INSTALL) --editable '.[test,dev]'
	touch $@

.venv/bench.stamp: .venv/test.stamp
	$(INSTALL) --editable '.[bench]'
	touch $@
