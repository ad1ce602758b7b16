"""What the repository holds of the tiny model is whole, small and says nothing of where it was made."""

import json
from pathlib import Path

import serving.tiny

TINY = Path(serving.tiny.__file__).parent
MODEL = TINY / "model"
MEGABYTE = 1_000_000


def test_the_model_has_all_that_vllm_loads_in_under_six_megabytes() -> None:
    files = {path.name: path.stat().st_size for path in MODEL.iterdir()}
    assert set(files) == {
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert sum(files.values()) < 6 * MEGABYTE


def test_the_weights_are_in_half_precision() -> None:
    data = (MODEL / "model.safetensors").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    kinds = {tensor["dtype"] for name, tensor in header.items() if name != "__metadata__"}
    assert kinds == {"F16"}
    assert json.loads((MODEL / "config.json").read_text())["dtype"] == "float16"


def test_reasoning_and_call_tags_are_one_visible_token_each() -> None:
    added = json.loads((MODEL / "tokenizer.json").read_text())["added_tokens"]
    special = {token["content"]: token["special"] for token in added}
    assert not any(special[tag] for tag in ("<think>", "</think>", "<tool_call>", "</tool_call>"))
    assert special["<|im_end|>"]


def test_the_model_carries_the_template_that_it_was_trained_with() -> None:
    source = (TINY / "chat_template.jinja").read_text().strip()
    assert (MODEL / "chat_template.jinja").read_text().strip() == source


def test_no_file_names_a_place_on_the_machine_that_made_it() -> None:
    for path in MODEL.glob("*.json"):
        text = path.read_text()
        assert not any(place in text for place in ('"/tmp', '"/home', '"/root', '"/work'))
