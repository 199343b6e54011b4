"""The first token with knowledge against the facts in the prompt: `python -m benchmarks.in_context [--json FILE]`.

A model of a real shape with random weights. The prompt is measured as far as --longest tokens and predicted beyond, by

    seconds = a * tokens + b * tokens ** 2

fitted to the measured lengths (all matrix products, and attention of each token to those before it); a row says which
of the two it is. A triple is 20 tokens of text. All lengths and sizes take turns, so that they meet the same machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import DynamicCache

from benchmarks.options import at_least, check, document
from kblam.bench import timing
from kblam.bench.cases import count_of, model_of
from kblam.bench.environment import line
from kblam.bench.models import CONFIGS, GrowingKnowledge, build
from kblam.bench.output import write_json
from kblam.errors import BenchmarkError
from kblam.models import Attachment, cache_name

TOKENS_OF_TRIPLE, QUESTION_TOKENS = 20, 32
LEAST_LENGTHS = 3


@dataclasses.dataclass(frozen=True)
class Fit:
    """seconds = a * tokens + b * tokens ** 2, and the largest relative error at the measured lengths."""

    a: float
    b: float
    error: float

    def seconds(self, tokens: int) -> float:
        """Of a prompt."""
        return self.a * tokens + self.b * tokens**2


@dataclasses.dataclass(frozen=True)
class Row:
    """One knowledge size.

    Args:
        triples, tokens: M, and the tokens of a prompt with all of them and a question.
        with_knowledge: seconds to the first token of a question, the knowledge in force.
        in_context: seconds to the first token of that prompt.
        is_measured: or predicted by the fit.
        knowledge_bytes, cache_bytes: the latents; keys and values of the prompt.
    """

    triples: int
    tokens: int
    with_knowledge: float
    in_context: float
    is_measured: bool
    knowledge_bytes: int
    cache_bytes: int


def fitted(seconds: dict[int, float]) -> Fit:
    """To the relative errors, since a second of one length is not that of another; neither part is negative."""
    lengths = sorted(seconds)
    columns = torch.tensor([[n / seconds[n], n**2 / seconds[n]] for n in lengths], dtype=torch.float64)
    ones = torch.ones(len(lengths), 1, dtype=torch.float64)
    scale = columns.norm(dim=0)
    a, b = (torch.linalg.lstsq(columns / scale, ones).solution[:, 0] / scale).tolist()
    if min(a, b) < 0:
        part = 0 if b < 0 else 1
        alone = (columns[:, part].sum() / columns[:, part].square().sum()).item()
        a, b = (alone, 0.0) if part == 0 else (0.0, alone)
    return Fit(a, b, max(abs((a * n + b * n**2) / seconds[n] - 1) for n in lengths))


@torch.inference_mode()
def measure(
    attachment: Attachment, sizes: Sequence[int], longest: int, repeats: int
) -> tuple[list[Row], Fit, dict[int, float]]:
    """Rows of all sizes, the fit, and the seconds of each length that was measured."""
    model: Any = attachment.model
    config = model.config
    lengths = [longest // 2**power for power in range(5) if longest // 2**power >= QUESTION_TOKENS]
    lengths += [tokens for tokens in map(prompt_tokens, sizes) if tokens <= longest]
    ids = torch.randint(0, config.vocab_size, (1, max(lengths)), device=model.device)
    calls: dict[str, Callable[[], object]] = {}
    for tokens in sorted(set(lengths)):
        calls[f"prompt {tokens}"] = functools.partial(_first_token, model, ids[:, :tokens])
    sources = {
        M: GrowingKnowledge(attachment.adapter, M, model.dtype, torch.bfloat16, str(model.device)) for M in sizes
    }
    for M, source in sources.items():
        calls[f"knowledge {M}"] = functools.partial(_known, attachment, source, ids[:, :QUESTION_TOKENS])
    turns = timing.turns(calls, repeats)
    took = {name: statistics.median(turn[name] for turn in turns) for name in calls}
    prompts = {int(name.split()[1]): seconds for name, seconds in took.items() if name.startswith("prompt")}
    fit = fitted(prompts)
    of_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * model.dtype.itemsize
    rows = []
    for M, source in sources.items():
        tokens = prompt_tokens(M)
        is_measured = tokens in prompts
        seconds = prompts[tokens] if is_measured else fit.seconds(tokens)
        rows.append(Row(M, tokens, took[f"knowledge {M}"], seconds, is_measured, source.num_bytes, tokens * of_token))
    return rows, fit, prompts


def prompt_tokens(triples: int) -> int:
    """Of the facts and a question."""
    return triples * TOKENS_OF_TRIPLE + QUESTION_TOKENS


def _first_token(model: Any, ids: torch.Tensor) -> None:
    model(ids, logits_to_keep=1, **cache_name.as_argument(model, DynamicCache(config=model.config)))


def _known(attachment: Attachment, source: GrowingKnowledge, ids: torch.Tensor) -> None:
    with attachment.using(source):
        _first_token(attachment.model, ids)


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Prints the table; returns its rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.in_context", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--triples", nargs="+", default=["50", "1K", "10K"])
    parser.add_argument("--longest", type=int, default=2048, help="prompt that is measured, in tokens")
    parser.add_argument("--repeats", type=at_least(1), default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args(arguments)
    check(parser, given.json)
    if given.longest < QUESTION_TOKENS * 2 ** (LEAST_LENGTHS - 1):
        parser.error(f"--longest: {given.longest} leaves fewer than {LEAST_LENGTHS} lengths to fit; take 2048")
    try:
        model, sizes = model_of(given.model).name, [count_of(text) for text in given.triples]
    except BenchmarkError as problem:
        parser.error(str(problem))
    if model not in CONFIGS:
        parser.error(f"--model: {model} is a shape of attention alone; models are {', '.join(CONFIGS)}")
    rows, fit, prompts = measure(build(CONFIGS[model]), sizes, given.longest, given.repeats)
    found = document(given, torch.bfloat16, fit=dataclasses.asdict(fit), prompts=prompts)
    print(f"{model}, random weights, bfloat16; {line(found['environment'])}\n")
    measured = ", ".join(f"{tokens:,} tokens {seconds:.3f} s" for tokens, seconds in sorted(prompts.items()))
    print(f"prompts measured: {measured}")
    print(f"seconds = {fit.a:.3e} * tokens + {fit.b:.3e} * tokens ** 2, within {fit.error:.0%} of those\n")
    print("| triples | tokens of the prompt | first token, knowledge | first token, prompt | ratio | latents | cache |")
    print("|---" * 7 + "|")
    for row in rows:
        how = "measured" if row.is_measured else "predicted"
        print(
            f"| {row.triples:,} | {row.tokens:,} | {row.with_knowledge:.3f} s | {row.in_context:.3f} s, {how} | "
            f"{row.in_context / row.with_knowledge:.1f} | {row.knowledge_bytes / 1e6:.1f} MB | "
            f"{row.cache_bytes / 1e6:.1f} MB |"
        )
    if given.json is not None:
        write_json(found | {"rows": [dataclasses.asdict(row) for row in rows]}, given.json)
    return rows


if __name__ == "__main__":
    main()
