"""From triples to what a model reads: the file, the device, one triple changed, keys and values of a layer.

`pytest benchmarks/test_build.py --benchmark-only --shapes smollm2-135m --triples 1K,10K`. The encoder costs nothing
here: it hands out random vectors.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from benchmarks import suite
from benchmarks.conftest import words
from kblam.adapter import AdapterConfig, KnowledgeAdapter
from kblam.bench.cases import count_of, model_of
from kblam.bench.models import CONFIGS, EMBEDDING_DIM
from kblam.errors import KnowledgeError
from kblam.knowledge import KnowledgeBase, Triple
from kblam.models.resident import ResidentKnowledge
from kblam_kernels import UnsupportedInputError

ROUNDS = 5
# What a resident knowledge base is pinned to, and how its latents are stored.
LAYOUTS = {
    "kblam latent": ("latent", "bfloat16"),
    "kblam latent int8": ("latent", "int8"),
    "kblam dense": ("dense", "bfloat16"),
}


class RandomVectors:
    """An encoder that costs nothing."""

    spec, fingerprint, dimension = "random", "random", EMBEDDING_DIM

    def encode(self, texts: Sequence[str], *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        return np.random.default_rng(0).standard_normal((len(texts), self.dimension), np.float32)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    option = metafunc.config.option
    counts = [count_of(text) for text in words(option.triples) or ["10K" if not option.quick else "1K"]]
    metafunc.parametrize("triples", counts, ids=lambda M: f"M{M}")
    if "model" in metafunc.fixturenames:
        names = [model_of(name).name for name in words(option.shapes) or ["llama-3.2-1b"]]
        metafunc.parametrize("model", [name for name in names if name in CONFIGS])


@functools.lru_cache(maxsize=1)
def facts(triples: int) -> list[Triple]:
    return [Triple(f"entity {number}", "number", f"{number} in words") for number in range(triples)]


@functools.lru_cache(maxsize=1)
def in_memory(triples: int) -> KnowledgeBase:
    return KnowledgeBase.from_triples(facts(triples), RandomVectors())


@functools.lru_cache(maxsize=1)
def adapter_for(model: str, device: str) -> KnowledgeAdapter:
    config = AdapterConfig.for_model(CONFIGS[model], EMBEDDING_DIM, knowledge_scale=100.0)
    return KnowledgeAdapter(config).to(device).requires_grad_(False)


def resident(triples: int, model: str, layout: str, device: str) -> ResidentKnowledge:
    plan, storage = LAYOUTS[layout]
    return ResidentKnowledge(
        in_memory(triples),
        adapter_for(model, device),
        dtype=torch.bfloat16,
        device=torch.device(device),
        storage=storage,
        plan=plan,
    )


def note(benchmark: BenchmarkFixture, group: str, triples: int, implementation: str, device: str) -> None:
    benchmark.group = f"{group} M{triples}"
    benchmark.extra_info |= {"implementation": implementation, "triples": triples} | suite.about(device)


def test_into_a_file(triples: int, benchmark: BenchmarkFixture, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    numbers = itertools.count()

    def call() -> None:
        with KnowledgeBase.create(tmp_path / f"{next(numbers)}.kb", RandomVectors()) as made:
            made.add(facts(triples))

    note(benchmark, "into a file", triples, "kblam", request.config.option.device)
    benchmark.pedantic(call, rounds=ROUNDS, warmup_rounds=1)


def test_out_of_a_file(
    triples: int, benchmark: BenchmarkFixture, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    file = tmp_path / "facts.kb"
    with KnowledgeBase.create(file, RandomVectors()) as made:
        made.add(facts(triples))

    def call() -> None:
        with KnowledgeBase.open(file, RandomVectors()) as opened:
            opened.embeddings()

    note(benchmark, "out of a file", triples, "kblam", request.config.option.device)
    benchmark.pedantic(call, rounds=ROUNDS, warmup_rounds=1)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_onto_the_device(
    triples: int, model: str, layout: str, benchmark: BenchmarkFixture, request: pytest.FixtureRequest
) -> None:
    device = request.config.option.device
    call = suite.until_done(lambda: resident(triples, model, layout, device), device)
    try:
        call()
    except (UnsupportedInputError, KnowledgeError) as problem:
        pytest.skip(f"{layout}: does not fit: {problem}")
    note(benchmark, f"{model} onto the device", triples, layout, device)
    benchmark.pedantic(call, rounds=ROUNDS)


def test_one_triple_changed(
    triples: int, model: str, benchmark: BenchmarkFixture, request: pytest.FixtureRequest
) -> None:
    """Its text is encoded and stored before; what is timed is the row on the device."""
    device = request.config.option.device
    source = resident(triples, model, "kblam latent", device)
    numbers = itertools.count()

    def change() -> None:
        in_memory(triples).add(Triple("entity 0", "number", f"changed {next(numbers)} times"))

    note(benchmark, f"{model} one triple changed", triples, "kblam latent", device)
    setup, call = suite.until_done(change, device), suite.until_done(source.sync, device)
    benchmark.pedantic(call, setup=setup, rounds=ROUNDS * 4)


def test_keys_and_values_of_a_layer(
    triples: int, model: str, benchmark: BenchmarkFixture, request: pytest.FixtureRequest
) -> None:
    device = request.config.option.device
    latents = resident(triples, model, "kblam latent", device).layer(0)
    note(benchmark, f"{model} keys and values of a layer", triples, "kblam materialise", device)
    suite.run_timed(benchmark, latents.to_dense, device)  # type: ignore[union-attr]
