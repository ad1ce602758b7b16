"""Train the tiny model: ``python -m serving.tiny.make OUT [--steps N] [--seed S]``.

Needs torch and transformers, as the environment of vLLM has them. Training goes by steps and not by
seconds, so that a busy machine takes longer and learns as much. At the end the weights are
rounded to half precision and examined: what greedy decoding would say at every turn of every script
must be the script in every ordinary context, and in nearly every odd one, or the command fails.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from serving.tiny.samples import IGNORED, Row, Sampler
from serving.tiny.scripts import SCRIPTS
from serving.tiny.tokenizer import CONTEXT, build

BATCH_TOKENS = 2400
WARM_UP = 30
ODD_ROWS = 40
"""How many odd contexts each script is examined in."""

ODD_SHARE = 0.99


def new_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    """A random Qwen3 of two million parameters; vLLM's CPU attention takes heads of 64."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen3ForCausalLM(config).float()


def batches(rows: Iterator[Row]) -> Iterator[list[Row]]:
    """Rows of like length together, about ``BATCH_TOKENS`` tokens with the padding."""
    while True:
        pool: list[list[Row]] = [[]]
        for row in sorted(islice(rows, 64), key=lambda row: len(row.ids)):
            if pool[-1] and (len(pool[-1]) + 1) * len(row.ids) > BATCH_TOKENS:
                pool.append([])
            pool[-1].append(row)
        # Not all short rows first: take the batches from both ends in turn.
        while pool:
            yield pool.pop(0)
            if pool:
                yield pool.pop()


def tensors(batch: list[Row], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and labels, both (rows, longest)."""
    width = max(len(row.ids) for row in batch)
    ids = [row.ids + [pad] * (width - len(row.ids)) for row in batch]
    labels = [row.labels + [IGNORED] * (width - len(row.labels)) for row in batch]
    return torch.tensor(ids), torch.tensor(labels)


def train(model: Qwen3ForCausalLM, rows: Iterator[Row], steps: int, peak: float) -> None:
    """AdamW with a warm-up and a linear way down; the loss is on the model's own tokens only."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.01)
    begin = time.monotonic()
    for step, batch in enumerate(islice(batches(rows), steps)):
        rate = peak * min(1, (step + 1) / WARM_UP) * (1 - 0.97 * step / steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        ids, labels = tensors(batch, model.config.pad_token_id)
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 25 == 0:
            print(f"step {step} {time.monotonic() - begin:.0f}s loss {loss:.4f}", flush=True)


def misses(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, row: Row) -> list[str]:
    """Where greedy decoding leaves a row.

    Greedy decoding says exactly the target if, and only if, each target token is the most likely
    one after the tokens before it; so one pass over the finished row decides.
    """
    labels = torch.tensor(row.labels[1:])
    with torch.inference_mode():
        best = model(input_ids=torch.tensor([row.ids])).logits[0, :-1].argmax(-1)
    found = []
    for at in ((labels != IGNORED) & (best != labels)).nonzero().flatten().tolist():
        said = tokenizer.decode(row.ids[max(0, at - 12) : at + 1])
        wish, word = tokenizer.decode([labels[at]]), tokenizer.decode([best[at]])
        found.append(f"after {said!r} wanted {wish!r}, got {word!r}")
    return found


def examine(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, seed: int) -> bool:
    """Print how well the scripts are known; whether that is enough.

    In ordinary contexts every turn must be exact. In contexts as odd as those of the training, but
    not seen there, ``ODD_SHARE`` of the rows must be.
    """
    model.eval()
    sampler = Sampler(tokenizer, seed)
    ordinary = [(script.id, row) for script in SCRIPTS for row in sampler.exam(script)]
    odd = [(script.id, sampler.row(script)) for script in SCRIPTS for _ in range(ODD_ROWS)]
    shares = []
    for title, rows in (("ordinary", ordinary), ("odd", odd)):
        wrong = 0
        for name, row in rows:
            if found := misses(model, tokenizer, row):
                wrong += 1
                print(f"{name}: {found[0]}")
        print(f"{title} contexts: {len(rows) - wrong} of {len(rows)} rows exact", flush=True)
        shares.append(1 - wrong / len(rows))
    return shares[0] == 1 and shares[1] >= ODD_SHARE


def save(model: Qwen3ForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write all that vLLM loads."""
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder for the model")
    parser.add_argument("--start", type=Path, help="go on from a model that this command made")
    parser.add_argument("--steps", type=int, default=2700)
    parser.add_argument("--rate", type=float, default=2e-3, help="the learning rate's peak")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2, help="1 on a busy machine")
    options = parser.parse_args(argv)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    tokenizer = build()
    model = new_model(tokenizer)
    if options.start:
        model = Qwen3ForCausalLM.from_pretrained(options.start, dtype=torch.float32)
    print(f"{len(tokenizer)} tokens, {model.num_parameters() / 1e6:.2f} million parameters")
    train(model, Sampler(tokenizer, options.seed).rows(), options.steps, options.rate)
    model.half().float()
    known = examine(model, tokenizer, options.seed + 1)
    save(model.half(), tokenizer, options.out)
    print("fit for use" if known else "not fit for use")
    return 0 if known else 1


if __name__ == "__main__":
    sys.exit(main())
