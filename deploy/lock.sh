#!/bin/sh
# Resolves every lock of the project anew, for Python 3.11 and 3.12 on any platform, with hashes and
# without naming an index. Versions that still fit are kept; `make lock UPGRADE=1` moves them all.
set -eu
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
[ -x "$uv" ] || uv=uv

compile() {
  "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
    --no-header --no-emit-index-url --no-emit-find-links ${UPGRADE:+--upgrade} "$@"
}

compile pyproject.toml --output-file requirements.lock
compile pyproject.toml --group dev --group build --constraints requirements.lock \
  --output-file requirements-dev.lock
for lane in nemo mlflow; do
  compile "deploy/lanes/$lane/$lane.in" --output-file "deploy/lanes/$lane/$lane.lock"
done

# What vLLM's wheel asks for and a text model on a CPU does not need is overridden away (see
# override.txt) and not named in the lock. The lock says `torch===` because `==` would also take a
# local build such as +cpu from a wheel folder of the machine, whose hash nobody here knows.
vllm=deploy/lanes/vllm
compile "$vllm/vllm.in" --override "$vllm/override.txt" --output-file "$vllm/vllm.lock" \
  --no-emit-package torchaudio --no-emit-package torchvision --no-emit-package torchcodec \
  --no-emit-package intel-openmp --no-emit-package triton
sed -i 's/^torch==\([0-9]\)/torch===\1/' "$vllm/vllm.lock"
