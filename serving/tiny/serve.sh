#!/bin/sh
# Serve the tiny model on the CPU with a real vLLM:  serving/tiny/serve.sh PORT [vllm flags]
# VLLM names the executable (default: vllm on the path). Ready in about half a minute.
port=$1
shift
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
exec "${VLLM:-vllm}" serve "$(dirname "$0")/model" --served-model-name tiny \
  --host 127.0.0.1 --port "$port" --max-model-len 2048 --max-num-seqs 16 --enforce-eager \
  --dtype float32 --kv-cache-memory-bytes 64M --enable-auto-tool-choice --tool-call-parser hermes \
  --reasoning-parser qwen3 --max-logprobs 20 "$@"
