"""A whole model: the first token and the next ones, with knowledge, without, as upstream does it, and with the facts in
the prompt; in bfloat16, or in float32 on a processor without instructions for it.

`pytest benchmarks/test_model.py --benchmark-only --shapes smollm2-135m --triples 100,10K`. Weights are random.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture
from transformers import DynamicCache

from benchmarks import suite
from benchmarks.conftest import words
from benchmarks.model_results import IN_CONTEXT, WITHOUT
from kblam.bench.as_upstream import AS_UPSTREAM, AsUpstream, checked
from kblam.bench.cases import count_of, model_of
from kblam.bench.models import CONFIGS, EMBEDDING_DIM, GrowingKnowledge, build, parts
from kblam.bench.subjects import INT8, INT8_PRODUCTS, LATENT
from kblam.bench.whole_model import STEPS, Decoding
from kblam.errors import BenchmarkError
from kblam.models import Attachment, attach, cache_name
from kblam_kernels.plan.devices import free_memory
from kblam_kernels.tools.env import quick_dtype

STORED = {LATENT: torch.bfloat16, INT8: torch.int8, INT8_PRODUCTS: torch.int8}
QUESTION_TOKENS = 32
# Of a triple in words; and of the longest prompt that is measured, which takes a CPU minutes.
TOKENS_OF_TRIPLE, LONGEST = 20, 4096


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    option = metafunc.config.option
    on_gpu = torch.device(option.device).type == "cuda"
    names = words(option.shapes) or ["smollm2-135m", *([] if option.quick else ["llama-3.2-1b"])]
    counts = [count_of(text) for text in words(option.triples) or (["10K"] if option.quick else ["100", "10K", "1M"])]
    ways = [way for way in (WITHOUT, *STORED, AS_UPSTREAM, IN_CONTEXT) if not (on_gpu and way == INT8_PRODUCTS)]
    params = [
        pytest.param(model_of(name).name, M, way, id=f"{model_of(name).name} M{M}-{way}")
        for name in names
        for M in counts
        for way in ways
    ]
    metafunc.parametrize(("model", "triples", "implementation"), params)


def attached(model: str, device: str, implementation: str) -> Attachment:
    made = built(model, device)
    return attach(made.model, made.adapter, int8_products=implementation == INT8_PRODUCTS)


@functools.lru_cache(maxsize=1)
def built(model: str, device: str) -> Attachment:
    if model not in CONFIGS:
        pytest.skip(f"{model} is a shape of attention alone: whole models are {', '.join(CONFIGS)}")
    config = CONFIGS[model]
    needed = sum(tensor.nbytes for tensor in parts(config, "meta")[0].parameters())
    if needed > (free := free_memory(torch.device(device))):
        pytest.skip(f"{model} needs about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
    return build(config, device=device, dtype=quick_dtype(device))


def prompt_tokens(triples: int, implementation: str) -> int:
    """Of a question, after the facts if they are in the prompt."""
    facts = TOKENS_OF_TRIPLE * triples if implementation == IN_CONTEXT else 0
    if facts + QUESTION_TOKENS > LONGEST:
        pytest.skip(f"{triples:,} triples in the prompt are {facts:,} tokens; up to {LONGEST:,} are measured")
    return facts + QUESTION_TOKENS


def timed(
    group: str,
    made: Attachment,
    triples: int,
    implementation: str,
    call: Callable[[], object],
    benchmark: BenchmarkFixture,
    device: str,
) -> None:
    """Times what a model does, with knowledge in force if the implementation asks for it."""
    knowledge_bytes, layout, storage = 0, "", ""
    with torch.inference_mode(), ExitStack() as block:
        if implementation in STORED:
            source = knowledge(made, triples, STORED[implementation], device)
            block.enter_context(made.using(source))
            knowledge_bytes, layout, storage = source.num_bytes, "latent", _name(STORED[implementation])
        elif implementation == AS_UPSTREAM:
            peer = as_upstream(made, triples, device)
            block.enter_context(peer.in_force())
            knowledge_bytes, layout, storage = peer.num_bytes, "dense", _name(made.model.dtype)
        benchmark.group = group
        benchmark.extra_info |= {
            "implementation": implementation,
            "triples": triples,
            "embedding_dim": EMBEDDING_DIM,
            "layout": layout,
            "storage": storage,
            "knowledge_bytes": knowledge_bytes,
            "dtype": _name(made.model.dtype),
        }
        suite.with_peak(benchmark, call, device)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def knowledge(made: Attachment, triples: int, storage: torch.dtype, device: str) -> GrowingKnowledge:
    """Synthetic triples for a model."""
    return GrowingKnowledge(made.adapter, triples, made.model.dtype, storage, device)


def as_upstream(made: Attachment, triples: int, device: str) -> AsUpstream:
    """The same triples as keys and values, held against what we make of them; what cannot be is skipped with why."""
    try:
        return checked(made, knowledge(made, triples, torch.bfloat16, device), device)
    except BenchmarkError as problem:
        pytest.skip(f"{AS_UPSTREAM}: {problem}")


def test_next_token(
    model: str, triples: int, implementation: str, benchmark: BenchmarkFixture, request: pytest.FixtureRequest
) -> None:
    """Eight tokens at a time, greedy, with a static cache."""
    device = request.config.option.device
    made = attached(model, device, implementation)
    with torch.inference_mode():
        decode = Decoding(made.model, made.model, prompt_tokens(triples, implementation) + STEPS)
    benchmark.extra_info["tokens"] = STEPS
    timed(f"{model} next {STEPS} tokens M{triples}", made, triples, implementation, decode, benchmark, device)


def test_first_token(
    model: str, triples: int, implementation: str, benchmark: BenchmarkFixture, request: pytest.FixtureRequest
) -> None:
    """A question of 32 tokens; with the facts in the prompt, these too."""
    device = request.config.option.device
    made = attached(model, device, implementation)
    whole: Any = made.model
    ids = torch.randint(0, whole.config.vocab_size, (1, prompt_tokens(triples, implementation)), device=device)
    call = functools.partial(_prefill, whole, ids)
    timed(f"{model} first token M{triples}", made, triples, implementation, call, benchmark, device)


def _prefill(model: Any, ids: torch.Tensor) -> None:
    model(ids, logits_to_keep=1, **cache_name.as_argument(model, DynamicCache(config=model.config)))
