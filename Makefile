# Everything that a newcomer must know is a target here: `make help`.

PYTHON ?=
export PYTHON UPGRADE

RUN := .venv/bin
PYTEST_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup opa lanes test check format demo demo-vllm bench bench-tools lock clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

setup:  ## make .venv with the interlock command, from the lock
	@deploy/setup.sh

opa: setup  ## the opa command alone, for whoever writes policies; `interlock policy` finds it
	@$(RUN)/python deploy/lane.py opa

lanes: setup  ## make the environments of the real vLLM, OPA, NeMo and MLflow (once per machine, large)
	@for lane in opa nemo mlflow vllm; do $(RUN)/python deploy/lane.py $$lane || exit 1; done

test: setup  ## run every test, the real servers included (PYTEST_ARGS=… for fewer)
	@deploy/test.sh $(PYTEST_ARGS)

check: setup  ## formatting, lint and types
	@$(RUN)/ruff format --check .
	@$(RUN)/ruff check .
	@$(RUN)/mypy

format: setup  ## write the formatting that `check` asks for
	@$(RUN)/ruff format .
	@$(RUN)/ruff check --fix .

demo: setup  ## the story on recorded vLLM traffic; needs nothing else
	@$(RUN)/interlock demo

demo-vllm: setup  ## the same story on a real vLLM on this machine's CPU (installs it)
	@lane=$$($(RUN)/python deploy/lane.py vllm) && INTERLOCK_LANE_VLLM=$$lane $(RUN)/interlock demo --vllm

bench: setup  ## requests/s, streams/s and added latency beside direct, aiohttp and nginx
	@$(RUN)/python -m bench

bench-tools:  ## wrk and nginx for the benchmark (Debian, Ubuntu; as root)
	DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends wrk nginx-light

lock: setup  ## resolve the locks anew (UPGRADE=1 moves every version)
	@deploy/lock.sh

clean:  ## remove .venv and the tools' caches; the lanes stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
