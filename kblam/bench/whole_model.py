"""Tokens a second of a whole model, with knowledge over without; needs transformers.

Random weights in the shape of a real model, a static cache, and one CUDA graph of a few greedy tokens for each of the
two, replayed in turn. On a CPU the same code runs without graphs.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import StaticCache

from kblam.bench import as_upstream, kernels, models, timing
from kblam.bench.as_upstream import AS_UPSTREAM
from kblam.bench.models import CONFIGS, TINY, GrowingKnowledge
from kblam.bench.rows import FAILED, MEASURED, TOO_LARGE, described, first_line
from kblam.errors import BenchmarkError
from kblam.models import Attachment, cache_name
from kblam_kernels.common.graphs import captured


@dataclasses.dataclass(frozen=True)
class Case:
    """A model of CONFIGS with so many triples."""

    model: str
    triples: int

    @property
    def name(self) -> str:
        """Such as "Llama-3-8B model M10000"."""
        return f"{self.model} model M{self.triples}"


# In the order in which they are run: those of one model together.
QUICK = (Case("Llama-3-8B", 10_000), Case("Llama-3.2-1B", 10_000))
FULL = tuple(
    Case(model, triples) for model in ("Llama-3-8B", "Llama-3.2-1B") for triples in (10_000, 100_000, 1_000_000)
)
TOYS = (Case(TINY, 50), Case(TINY, 200))
STEPS = 8  # tokens in one graph
SHOWN = 20  # kernels of a token that are kept


@dataclasses.dataclass(frozen=True)
class Settings:
    """How all cases of a run are measured.

    Args:
        device: where.
        context: tokens of the static cache, the new ones included.
        repeats: of each graph.
        compiled: both with `torch.compile`.
    """

    device: str
    context: int = 1024
    repeats: int = 30
    compiled: bool = False


@dataclasses.dataclass(frozen=True)
class ModelRow:
    """One model and number of triples, batch 1; seconds are of one token.

    Args:
        shape, model, triples, storage: what ran; `shape` is the case's name.
        status, note: as a `measured.Row` has them.
        tokens_per_second, without: with knowledge and without.
        ratio: of the two, what knowledge leaves of the speed.
        p10, p90, p10_without, p90_without: percentiles of the seconds.
        launches, launches_without: kernels for a token.
        kernels: of a token with knowledge, the longest first.
        latent_bytes: the knowledge on the device.
        as_upstream: tokens a second the way microsoft/KBLaM runs it, with `as_upstream_bytes` of keys and values; None
            where `as_upstream_note` says why.
    """

    shape: str
    model: str
    triples: int
    storage: str = "bfloat16"
    status: str = MEASURED
    note: str = ""
    tokens_per_second: float | None = None
    without: float | None = None
    ratio: float | None = None
    p10: float | None = None
    p90: float | None = None
    p10_without: float | None = None
    p90_without: float | None = None
    launches: float | None = None
    launches_without: float | None = None
    kernels: list[kernels.Kernel] = dataclasses.field(default_factory=list)
    latent_bytes: int | None = None
    as_upstream: float | None = None
    as_upstream_bytes: int | None = None
    as_upstream_note: str = ""
    context: int | None = None
    sm_clock: int | None = None
    cuda_graph: bool | None = None
    compiled: bool = False


class Decoding:
    """STEPS greedy tokens after the same prompt, at every call; nothing of it waits for the device.

    Args:
        model: with or without knowledge in force.
        forward: the model, or the model compiled.
        context: tokens of the static cache; the prompt fills it but for the new ones.
    """

    def __init__(self, model: Any, forward: Callable[..., Any], context: int) -> None:
        self._forward = forward
        ids = torch.randint(0, model.config.vocab_size, (1, context - STEPS + 1), device=model.device)
        self._cache = StaticCache(config=model.config, max_cache_len=context)
        self._cached = cache_name.as_argument(model, self._cache)
        # What a prompt's keys and values are does not matter to the time: it is taken in once, without knowledge.
        model(ids[:, :-1], **self._cached)
        self._token = ids[:, -1:].clone()
        # How full the cache is. The new columns are written anew by every call, and what is behind them is not seen.
        self._filled = [
            (value, value.clone())
            for layer in self._cache.layers
            for name, value in vars(layer).items()
            if isinstance(value, Tensor) and name not in ("keys", "values")
        ]

    def __call__(self) -> None:
        for filled, after_the_prompt in self._filled:
            filled.copy_(after_the_prompt)
        for _ in range(STEPS):
            logits = self._forward(self._token, **self._cached).logits
            self._token.copy_(logits[:, -1:].argmax(-1))


class Models:
    """Builds a model when a case first needs it, and keeps the last one.

    Args:
        device: where.
    """

    def __init__(self, device: str) -> None:
        self._device = device
        self._built: tuple[str, Attachment] | None = None

    def of(self, name: str) -> Attachment:
        """The attached model of that name."""
        if self._built is not None and self._built[0] == name:
            return self._built[1]
        self.free()
        self._built = name, models.build(CONFIGS[name], device=self._device)
        return self._built[1]

    def free(self) -> None:
        """Gives its memory back."""
        if self._built is None:
            return
        self._built = None
        gc.collect()  # a model and its hooks know each other
        if torch.device(self._device).type == "cuda":
            torch.cuda.empty_cache()


def measure(case: Case, models: Models, settings: Settings) -> ModelRow:
    """Its row; what goes wrong becomes one too."""
    row = ModelRow(case.name, case.model, case.triples, context=settings.context, compiled=settings.compiled)
    try:
        attachment = models.of(case.model)
        return _with_upstream(_measured(row, attachment, settings), attachment, settings)
    except torch.OutOfMemoryError as problem:
        return dataclasses.replace(row, status=TOO_LARGE, note=first_line(problem))
    except Exception as problem:
        return dataclasses.replace(row, status=FAILED, note=described(problem))


@torch.no_grad()
def _measured(row: ModelRow, attachment: Attachment, settings: Settings) -> ModelRow:
    device = settings.device
    on_gpu = torch.device(device).type == "cuda"
    model: Any = attachment.model
    source = GrowingKnowledge(attachment.adapter, row.triples, model.dtype, torch.bfloat16, device)
    forward = torch.compile(model, dynamic=False) if settings.compiled else model
    decode = Decoding(model, forward, settings.context)

    def known() -> None:
        with attachment.using(source):
            decode()

    calls: list[Callable[[], object]] = [decode, known]
    for call in calls:
        call()
    launched = [kernels.of([call], device, count=1) for call in calls]
    graphs: list[Callable[[], object] | None] = [None, None]
    if on_gpu:
        graphs[0] = captured(decode)
        # What puts knowledge in force is no part of a token, and of no graph.
        with attachment.using(source):
            graphs[1] = captured(decode)
    is_graph = all(graph is not None for graph in graphs)
    if is_graph:
        calls = [graph for graph in graphs if graph is not None]
    without, with_knowledge = timing.in_turn(calls, device, settings.repeats)
    counts = [sum(kernel.launches for kernel in found) / STEPS if found else None for found in launched]
    each = [
        kernels.Kernel(kernel.name, kernel.launches / STEPS, kernel.microseconds / STEPS)
        for kernel in launched[1][:SHOWN]
    ]
    return dataclasses.replace(
        row,
        note="" if is_graph or not on_gpu else "no CUDA graph could be captured: host and launches are timed too",
        tokens_per_second=STEPS / with_knowledge.median,
        without=STEPS / without.median,
        ratio=without.median / with_knowledge.median,
        p10=with_knowledge.p10 / STEPS,
        p90=with_knowledge.p90 / STEPS,
        p10_without=without.p10 / STEPS,
        p90_without=without.p90 / STEPS,
        launches=counts[1],
        launches_without=counts[0],
        kernels=each,
        latent_bytes=source.num_bytes,
        sm_clock=with_knowledge.sm_clock,
        cuda_graph=is_graph if on_gpu else None,
    )


@torch.no_grad()
def _with_upstream(row: ModelRow, attachment: Attachment, settings: Settings) -> ModelRow:
    """The row with the peer's figures: after ours, since the two may not fit side by side."""
    device, model = settings.device, attachment.model
    source = GrowingKnowledge(attachment.adapter, row.triples, model.dtype, torch.bfloat16, device)
    try:
        peer = as_upstream.checked(attachment, source, device)
        decode = Decoding(model, model, settings.context)
        with peer.in_force():
            decode()
            call = captured(decode) if torch.device(device).type == "cuda" else None
            (took,) = timing.in_turn([call or decode], device, settings.repeats)
    # A peer that cannot is no failure of ours.
    except BenchmarkError as problem:
        return dataclasses.replace(row, as_upstream_note=str(problem))
    except Exception as problem:
        return dataclasses.replace(row, as_upstream_note=described(problem))
    return dataclasses.replace(row, as_upstream=STEPS / took.median, as_upstream_bytes=peer.num_bytes)


def line_of(row: ModelRow) -> str:
    """For people."""
    name = row.shape
    if row.ratio is None:
        return f"{name:32} {row.status}: {row.note}"
    launches = "" if row.launches is None else f", {row.launches:.0f} launches a token for {row.launches_without:.0f}"
    upstream = row.as_upstream_note if row.as_upstream is None else f"{row.as_upstream:.1f}"
    return (
        f"{name:32} {row.tokens_per_second:8.1f} tokens/s, {row.without:8.1f} without, ratio {row.ratio:.3f}{launches}"
        f"; {AS_UPSTREAM} {upstream}" + (f" ({row.note})" if row.note else "")
    )
