"""Which parsers of vLLM fit which model: the table behind ``interlock serve --model NAME``.

How to think about it. Without its tool parser a model's calls arrive as plain text, and nobody would judge them
as calls; without its reasoning parser the reasoning is part of the text. So a model whose family is unknown is
not guessed at: whoever launches it says which parsers. A row is tried against the model's name and against its
architecture (``model_type`` and ``architectures`` of its ``config.json``); the first row that fits wins, so the
narrow ones stand first.

Parser names are those of vLLM 0.32.0 (``vllm/tool_parsers``, ``vllm/reasoning``); which fits which model is from
vLLM's documentation on tool calling and reasoning outputs, and from the parsers themselves.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import msgspec


class Parsers(msgspec.Struct, frozen=True):
    """Names for ``--tool-call-parser`` and ``--reasoning-parser``; null: none."""

    tool: str | None
    reasoning: str | None


class _Family(msgspec.Struct, frozen=True):
    name: str
    model_type: str
    tool: str | None
    reasoning: str | None = None


_NEVER = r"(?!)"

FAMILIES: tuple[_Family, ...] = (
    _Family(r"qwen3[-_.]?coder", _NEVER, "qwen3_coder"),
    _Family(r"qwen3\.5|qwen3\.6", r"qwen3_5.*", "qwen3_coder", "qwen3"),
    _Family(r"qwen3.*instruct", _NEVER, "hermes"),
    _Family(r"qwq", _NEVER, "hermes", "deepseek_r1"),
    _Family(r"qwen3", r"qwen3.*", "hermes", "qwen3"),
    _Family(r"qwen2\.5", r"qwen2.*", "hermes"),
    _Family(r"gpt-oss", r"gpt_oss", "openai", "openai_gptoss"),
    _Family(r"deepseek.*v4\.1", r"deepseek_v41", "deepseek_v41", "deepseek_v41"),
    _Family(r"deepseek.*v4", r"deepseek_v4", "deepseek_v4", "deepseek_v4"),
    _Family(r"deepseek.*v3\.2", r"deepseek_v32", "deepseek_v32", "deepseek_v3"),
    _Family(r"deepseek.*v3\.1", _NEVER, "deepseek_v31", "deepseek_v3"),
    _Family(r"deepseek-r1-distill", _NEVER, None, "deepseek_r1"),
    _Family(r"deepseek-r1", _NEVER, "deepseek_v3", "deepseek_r1"),
    _Family(r"deepseek.*v3", _NEVER, "deepseek_v3"),
    _Family(r"hermes", _NEVER, "hermes"),
    _Family(r"xlam", _NEVER, "xlam"),
    _Family(r"nemotron-3", _NEVER, "qwen3_coder", "nemotron_v3"),
    _Family(r"llama[-_.]?4", r"llama4.*", "llama4_pythonic"),
    _Family(r"llama[-_.]?3", r"mllama", "llama3_json"),
    _Family(r"magistral", _NEVER, "mistral", "mistral"),
    _Family(r"mistral|mixtral|ministral|devstral", r"mistral.*|mixtral|ministral.*", "mistral"),
    _Family(r"glm-4\.[7-9]|glm-5", _NEVER, "glm47", "glm47"),
    _Family(r"glm-4\.[56]", r"glm4_moe.*", "glm45", "glm45"),
    _Family(r"kimi-k3", r"kimi_k3", "kimi_k3", "kimi_k3"),
    _Family(r"kimi-k2.*(thinking|\.5|\.6)", _NEVER, "kimi_k2", "kimi_k2"),
    _Family(r"kimi-k2", r"kimi_k2", "kimi_k2"),
    _Family(r"minimax-m3", r"minimax_m3", "minimax_m3", "minimax_m3"),
    _Family(r"minimax-m2", r"minimax_m2", "minimax_m2", "minimax_m2"),
    _Family(r"granite-4", r"granitemoehybrid", "granite4"),
    _Family(r"granite-3", r"granite", "granite", "granite"),
    _Family(r"functiongemma", _NEVER, "functiongemma"),
    _Family(r"gemma-?4", r"gemma4.*", "gemma4", "gemma4"),
    _Family(r"phi-4-mini", _NEVER, "phi4_mini_json"),
    _Family(r"olmo-?3", r"olmo3", "olmo3", "olmo3"),
    _Family(r"seed-oss", r"seed_oss", "seed_oss", "seed_oss"),
    _Family(r"step-?3\.5", r"step3p5", "step3p5", "step3p5"),
    _Family(r"step-?3", r"step3.*", "step3", "step3"),
    _Family(r"hunyuan-a13b", r"hunyuan_v1_moe", "hunyuan_a13b", "hunyuan_a13b"),
    _Family(r"ernie-4\.5", r"ernie4_5.*", "ernie45", "ernie45"),
    _Family(r"command-a", r"cohere2.*", "cohere_command3", "cohere_command3"),
    _Family(r"internlm2", r"internlm2", "internlm"),
    _Family(r"jamba", r"jamba", "jamba"),
    _Family(r"lfm2", r"lfm2.*", "lfm2"),
    _Family(r"apertus", r"apertus", "apertus"),
    _Family(r"longcat", r"longcat.*", "longcat"),
    _Family(r"mimo", r"mimo.*", "mimo", "mimo"),
)


def parsers_for(model: str, config: Mapping[str, object] | None = None) -> Parsers | None:
    """The parsers of ``model`` (a name as ``org/name``, or a folder), or null if its family is not known.
    ``config`` is its ``config.json``, where at hand. The name is asked first: models of one architecture
    may speak differently."""
    name = model.rstrip("/").rpartition("/")[2]
    for family in FAMILIES:
        if re.search(family.name, name, re.IGNORECASE):
            return Parsers(family.tool, family.reasoning)
    model_type = (config or {}).get("model_type")
    for family in FAMILIES:
        if isinstance(model_type, str) and re.fullmatch(family.model_type, model_type):
            return Parsers(family.tool, family.reasoning)
    return None


def config_of(model: str) -> Mapping[str, object] | None:
    """The ``config.json`` of a model in a folder; null for a name, or if there is none that can be read."""
    try:
        data = json.loads((Path(model) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
