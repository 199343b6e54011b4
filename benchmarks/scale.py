"""How a knowledge base scales inside a model on the CPU: memory and time per token, with and without it.

`python -m benchmarks.scale [--json [FILE]] [--triples 10000 100000 1000000]`: a model of Llama-3.2-1B's shape with
random bfloat16 weights, an adapter at every third layer, synthetic latents, read in decode and a prefill of 32 tokens.
Times with and without knowledge are taken in turn, so that both meet the same machine. `--encoder minilm` makes real
triples, encoded and stored, in place of synthetic latents. `--smoke` is a tiny model, to test the code. `--json` alone
prints the rows on stdout and the table on stderr.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from benchmarks.options import at_least, check, document
from kblam.bench.models import CONFIGS, EMBEDDING_DIM, TINY, SyntheticKnowledge, build
from kblam.bench.output import STDOUT, write_json
from kblam.knowledge import KnowledgeBase, Triple, load_encoder
from kblam.models import Attachment, cache_name
from kblam.models.formats import storage_dtype
from kblam.models.resident import ResidentKnowledge
from kblam_kernels import UnsupportedInputError, plan
from kblam_kernels.plan import Workload, device_of

PROMPT_TOKENS = 32
PREFILL_ROUNDS = 3  # at most: from a million triples one takes seconds


@dataclass(frozen=True)
class Row:
    """One size. Bytes: of the latents, of the whole process with them, of dense keys and values in their place."""

    triples: int
    knowledge_bytes: int
    resident_bytes: int
    dense_bytes: int
    ms_per_token: float
    ms_per_token_without: float


@dataclass(frozen=True)
class Beside:
    """What else the table says of a size: milliseconds to rewrite one triple, and of a prefill (with, without)."""

    update: float
    prefill: tuple[float, float]
    dense_verdict: str


Knowledge = SyntheticKnowledge | ResidentKnowledge


def synthetic(attachment: Attachment, triples: int, storage: str) -> tuple[SyntheticKnowledge, Callable[[], object]]:
    """Random latents, and what rewrites one triple of them."""
    adapter, dtype = attachment.adapter, attachment.model.dtype
    source = SyntheticKnowledge(adapter, triples, dtype, storage_dtype(storage, adapter, dtype))
    return source, lambda: source.write(triples // 2, triples // 2 + 1)


def encoded(
    attachment: Attachment, triples: int, storage: str, encoder: str
) -> tuple[ResidentKnowledge, Callable[[], object]]:
    """A knowledge base of real vectors, and what takes in one changed triple, whose text is encoded before."""
    began = time.perf_counter()
    facts = [Triple(f"entity {number}", "number", f"{number} in words") for number in range(triples)]
    knowledge_base = KnowledgeBase.from_triples(facts, load_encoder(encoder))
    built = time.perf_counter()
    source = ResidentKnowledge(
        knowledge_base,
        attachment.adapter,
        dtype=attachment.model.dtype,
        device=torch.device("cpu"),
        storage=storage,
        plan="latent",
    )
    print(
        f"{triples:,} triples encoded and stored in {built - began:.1f} s, on the device in "
        f"{time.perf_counter() - built:.2f} s",
        file=sys.stderr,
    )
    knowledge_base.add(Triple(f"entity {triples // 2}", "number", "another one"))
    return source, source.sync


def resident_bytes() -> int:
    """Memory of this process that is in RAM now; Linux."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


def in_turn(attachment: Attachment, source: Knowledge, rounds: int, timed: Callable[[], float]) -> tuple[float, float]:
    """Median milliseconds of what returns its seconds, (with, without) knowledge, in turn."""
    times: dict[bool, list[float]] = {True: [], False: []}
    for number in range(rounds + 1):
        for known in (False, True):
            with attachment.using(source if known else None):
                seconds = timed()
            if number:  # the first of each warms up
                times[known].append(seconds)
    return 1e3 * statistics.median(times[True]), 1e3 * statistics.median(times[False])


@torch.inference_mode()
def time_tokens(attachment: Attachment, source: Knowledge, rounds: int) -> tuple[float, float]:
    """Of a decode step after a prompt."""
    model: Any = attachment.model
    ids = torch.randint(0, model.config.vocab_size, (1, PROMPT_TOKENS + 1))
    # Values of a prompt do not matter to the time: it is taken in once, without knowledge.
    cache = DynamicCache(config=model.config)
    model(ids[:, :PROMPT_TOKENS], **cache_name.as_argument(model, cache))

    def step() -> float:
        seconds = _forward(model, ids[:, PROMPT_TOKENS:], cache)
        cache.crop(-1)
        return seconds

    return in_turn(attachment, source, rounds, step)


@torch.inference_mode()
def time_prefill(attachment: Attachment, source: Knowledge, rounds: int) -> tuple[float, float]:
    """Of taking in a prompt."""
    model: Any = attachment.model
    ids = torch.randint(0, model.config.vocab_size, (1, PROMPT_TOKENS))
    return in_turn(attachment, source, rounds, lambda: _forward(model, ids, DynamicCache(config=model.config)))


def _forward(model: Any, ids: Tensor, cache: DynamicCache) -> float:
    began = time.perf_counter()
    model(ids, **cache_name.as_argument(model, cache))
    return time.perf_counter() - began


def dense_verdict(shape: Workload) -> str:
    """Whether dense keys and values could be held here, in words."""
    try:
        plan(shape, device_of(torch.device("cpu"), measure=False), pin="dense")
    except UnsupportedInputError as error:
        return f"refused: {error}"
    return "would fit"


def measure(attachment: Attachment, source: Knowledge, update: Callable[[], object], rounds: int) -> tuple[Row, Beside]:
    """One size."""
    config, triples = attachment.config, source.num_triples
    shape = Workload(triples, EMBEDDING_DIM, config.num_heads, config.head_dim, len(config.knowledge_layers))
    verdict = dense_verdict(shape)
    began = time.perf_counter()
    update()
    took = 1e3 * (time.perf_counter() - began)
    with_knowledge, without = time_tokens(attachment, source, rounds)
    row = Row(triples, source.num_bytes, resident_bytes(), shape.dense_bytes, with_knowledge, without)
    # After the row: what a prefill needs for itself is no part of the memory of decode.
    prefill = time_prefill(attachment, source, min(rounds, PREFILL_ROUNDS))
    return row, Beside(took, prefill, verdict)


COLUMNS = (
    "triples",
    "latents",
    "process",
    "ms per token",
    "without",
    "ratio",
    f"ms prefill of {PROMPT_TOKENS}",
    "without",
    "one triple changed",
    "dense keys and values",
)


def line(row: Row, beside: Beside) -> str:
    """A row of the table."""
    cells = (
        f"{row.triples:,}",
        f"{row.knowledge_bytes / 1e6:,.0f} MB",
        f"{row.resident_bytes / 1e9:.2f} GB",
        f"{row.ms_per_token:.1f}",
        f"{row.ms_per_token_without:.1f}",
        f"{row.ms_per_token / row.ms_per_token_without:.2f}",
        *(f"{milliseconds:.0f}" for milliseconds in beside.prefill),
        f"{beside.update:.2f} ms",
        f"{row.dense_bytes / 1e9:.2f} GB, {beside.dense_verdict}",
    )
    return f"| {' | '.join(cells)} |"


def main(arguments: Sequence[str] | None = None) -> list[Row]:
    """Prints the table; returns its rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.split("\n")[0])
    parser.add_argument("--triples", type=at_least(1), nargs="+", default=None)
    parser.add_argument("--storage", choices=["bfloat16", "float16", "int8"], default="bfloat16")
    parser.add_argument("--int8-products", action="store_true", help="int8 latents are multiplied as int8")
    parser.add_argument("--encoder", default=None, metavar="NAME", help="real triples through this encoder")
    parser.add_argument("--rounds", type=at_least(1), default=9, help="pairs of decode steps")
    parser.add_argument("--json", nargs="?", const=STDOUT, default=None, metavar="FILE", help="alone: on stdout")
    parser.add_argument("--smoke", action="store_true", help="a tiny model: tests the code, measures nothing")
    given = parser.parse_args(arguments)
    check(parser, given.json)
    if given.int8_products and given.storage != "int8":
        parser.error(f"--int8-products multiplies int8 latents, and these are {given.storage}; add --storage int8")
    say = functools.partial(print, file=sys.stderr if given.json == STDOUT else sys.stdout, flush=True)
    given.triples = given.triples or ([100, 2000] if given.smoke else [10_000, 100_000, 1_000_000])
    attachment = build(CONFIGS[TINY if given.smoke else "Llama-3.2-1B"], int8_products=given.int8_products)
    say(
        f"{'tiny' if given.smoke else 'Llama-3.2-1B shape'}, {given.storage} latents, {torch.get_num_threads()} "
        f"threads; {resident_bytes() / 1e9:.2f} GB with the model alone\n"
    )
    say(f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|")
    rows = []
    source: Knowledge
    for triples in given.triples:
        if given.encoder is None:
            source, change = synthetic(attachment, triples, given.storage)
        else:
            source, change = encoded(attachment, triples, given.storage, given.encoder)
        row, beside = measure(attachment, source, change, given.rounds)
        rows.append(row)
        del source, change  # frees it before the next is built
        say(line(row, beside))
    if given.json is not None:
        write_json(document(given, torch.bfloat16, rows=[asdict(row) for row in rows]), given.json)
    return rows


if __name__ == "__main__":
    main()
