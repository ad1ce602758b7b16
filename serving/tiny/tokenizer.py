"""The tiny model's tokenizer: byte-level BPE, learned from the scripts alone.

``<think>`` and ``<tool_call>`` are one token each but not special, so that they stay visible to the
parsers of a server which skips special tokens. The canary and the key are kept out of the corpus:
they are spelled in many short tokens, as a real model would spell them.
"""

from collections.abc import Iterator
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from serving.tiny.dialogue import canonical
from serving.tiny.scripts import CANARY, KEY, SCRIPTS, TOOLS

VOCABULARY = 1024
CONTEXT = 2048
"""The longest conversation in tokens, answer included."""

END = "<|im_end|>"
PAD = "<|endoftext|>"
_SPECIAL = [PAD, "<|im_start|>", END]
_VISIBLE = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
]


def build() -> PreTrainedTokenizerFast:
    """Learn the tokenizer; the result depends on the scripts only."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(_VISIBLE),
        special_tokens=_SPECIAL,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_corpus(), trainer)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in _VISIBLE])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = Path(__file__).with_name("chat_template.jinja").read_text().strip()
    return fast


def _corpus() -> Iterator[str]:
    for text in _texts():
        yield text.replace(CANARY, "").replace(KEY, "")


def _texts() -> Iterator[str]:
    yield "system user assistant name arguments # Tools <tools> </tools>"
    for tool in TOOLS.values():
        yield canonical(tool.definition()).replace(":", ": ").replace(",", ", ")
    for script in SCRIPTS:
        yield script.prompt
        yield script.follow_up
        yield from (text for texts in (script.results or {}).values() for text in texts)
        for turn in (*script.turns, *script.refused):
            yield turn.reasoning
            yield turn.text or ""
            for call in turn.calls:
                arguments = ", ".join(f'"{k}": "{v}"' for k, v in call.arguments.items())
                yield f'{{"name": "{call.name}", "arguments": {{{arguments}}}}}'
