"""What the planner predicts beside what is measured, path by path: `python -m benchmarks.crossover [--json FILE]`.

For each shape and number of new tokens it times attention to latents, to dense keys and values, and the making of these
followed by attention to them, in turn. The crossover is the least number of new tokens from which another path than the
latents is quicker.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.options import at_least, check, document
from kblam.bench.output import write_json
from kblam_kernels import LatentKnowledge, LatentProjection, rectangular_attention
from kblam_kernels.plan import KnowledgePath, Workload, device_of
from kblam_kernels.plan.cost import PATHS, cost_of
from kblam_kernels.plan.workload import MODELS

DTYPES = {2: torch.bfloat16, 4: torch.float32}
TRIPLES = 10_000
SHAPES = {"demo model": Workload(TRIPLES, 256, 4, 64, 1, element_size=4)}
SHAPES |= {model.title: model.workload(TRIPLES) for model in MODELS.values()}
QUERIES = (1, 2, 4, 8, 16, 32, 64)


@dataclasses.dataclass(frozen=True)
class Point:
    """One shape, path and number of new tokens; milliseconds a layer."""

    shape: str
    triples: int
    path: KnowledgePath
    queries: int
    predicted: float
    measured: float


def latents_of(shape: Workload, device: torch.device) -> LatentKnowledge:
    """Random latents; float16 under float32, as a resident knowledge base has them."""
    dtype = DTYPES[shape.element_size]
    stored = torch.float16 if dtype == torch.float32 else dtype
    draw = torch.Generator(device).manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=draw, device=device)

    key, value = (random(shape.triples, shape.width).to(stored) for _ in range(2))
    weights = [random(shape.num_heads, shape.head_dim, shape.width).mul_(shape.width**-0.5).to(dtype) for _ in range(2)]
    bias = random(shape.num_heads, shape.head_dim).to(dtype)
    norm = torch.ones(shape.triples, device=device)
    return LatentKnowledge(key, value, norm, LatentProjection(weights[0], bias, weights[1], bias))


@torch.inference_mode()
def measure(name: str, shape: Workload, device: torch.device, queries: Sequence[int]) -> list[Point]:
    """All paths of one shape."""
    latents = latents_of(shape, device)
    dense = latents.to_dense()
    planned = device_of(device)
    points = []
    for count in queries:
        size = (1, shape.num_heads, count, shape.head_dim)
        query = torch.randn(size, device=device).to(DTYPES[shape.element_size])
        prompt = torch.randn(1, shape.num_heads, max(64, count), shape.head_dim, device=device).to(query.dtype)

        def attend(knowledge: object, query: Tensor = query, prompt: Tensor = prompt) -> Tensor:
            return rectangular_attention(query, prompt, prompt, knowledge)  # type: ignore[call-overload]

        calls: dict[KnowledgePath, Callable[[], object]] = {
            "latent": lambda attend=attend: attend(latents),  # type: ignore[misc]
            "dense": lambda attend=attend: attend(dense),  # type: ignore[misc]
            "materialise": lambda attend=attend: attend(dataclasses.replace(latents, materialised=True)),  # type: ignore[misc]
        }
        for path in PATHS:
            seconds = best_seconds(calls[path], device)
            predicted = cost_of(path, shape, planned, count).seconds
            points.append(Point(name, shape.triples, path, count, 1e3 * predicted, 1e3 * seconds))
    return points


def best_seconds(call: Callable[[], object], device: torch.device, repeats: int = 7) -> float:
    """The best of several calls: what else runs on the machine can only make one slower."""
    times = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        call()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        times.append(time.perf_counter() - began)
    return min(times)


def crossover(points: Sequence[Point], other: KnowledgePath, *, predicted: bool) -> int | None:
    """The least number of new tokens from which `other` is quicker than the latents, for all greater ones too."""
    took = {(p.path, p.queries): p.predicted if predicted else p.measured for p in points}
    least = None
    for count in sorted({p.queries for p in points}, reverse=True):
        if took[other, count] >= took["latent", count]:
            break
        least = count
    return least


def main(arguments: Sequence[str] | None = None) -> list[Point]:
    """Prints a table for each shape; returns its points."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.crossover", description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--triples", type=at_least(1), default=TRIPLES)
    parser.add_argument("--queries", type=at_least(1), nargs="+", default=list(QUERIES))
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--json", type=Path, default=None, metavar="FILE")
    given = parser.parse_args(arguments)
    check(parser, given.json, given.device)
    everything = []
    for name in given.shapes:
        shape = dataclasses.replace(SHAPES[name], triples=given.triples)
        points = measure(name, shape, torch.device(given.device), given.queries)
        everything += points
        print(f"\n{name}, {given.triples:,} triples; milliseconds a layer, predicted / measured\n")
        print("| new tokens | " + " | ".join(PATHS) + " |\n|---" + "|---" * len(PATHS) + "|")
        for count in given.queries:
            row = {p.path: f"{p.predicted:.2f} / {p.measured:.2f}" for p in points if p.queries == count}
            print(f"| {count} | " + " | ".join(row[path] for path in PATHS) + " |")
        for other in ("dense", "materialise"):
            marks = [crossover(points, other, predicted=predicted) or "-" for predicted in (True, False)]
            print(f"{other} is quicker than latent from {marks[0]} new tokens on (predicted), {marks[1]} (measured)")
        ratio = statistics.geometric_mean(p.measured / p.predicted for p in points)
        print(f"measured / predicted, geometric mean: {ratio:.2f}")
    if given.json is not None:
        write_json(document(given, points=[dataclasses.asdict(p) for p in everything]), given.json)
    return everything


if __name__ == "__main__":
    main()
