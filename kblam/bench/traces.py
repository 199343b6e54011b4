"""Where a token's time goes: a trace that Perfetto opens, and the operations that take longest; needs transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity

from kblam.bench import kernels
from kblam.bench.kernels import Kernel
from kblam.bench.models import CONFIGS, GrowingKnowledge, build
from kblam.bench.profiling import profiled
from kblam.bench.whole_model import STEPS, Decoding
from kblam.errors import BenchmarkError
from kblam.models.formats import storage_dtype
from kblam.whole import whole

CONTEXT = 64 + STEPS


@dataclass(frozen=True)
class Profile:
    """Of one token with knowledge in force.

    Args:
        microseconds: of all operations.
        longest: those that take most of it, the longest first; launches and microseconds of one token.
    """

    microseconds: float
    longest: list[Kernel]


def of_a_token(
    title: str, triples: int, device: str, file: Path, *, storage: str = "bfloat16", top: int = 10
) -> Profile:
    """Decodes a few tokens under the profiler and writes the trace, whole or not at all.

    Args:
        title: a model of `CONFIGS`; its weights are random.
        triples: of synthetic knowledge.
        device: where.
        file: for https://ui.perfetto.dev.
        storage: of the latents, as `attach` takes it.
        top: operations that are returned.

    Raises:
        BenchmarkError: there is no such model.
    """
    if title not in CONFIGS:
        raise BenchmarkError(f"--profile: {title!r} is a shape of attention alone; models are {', '.join(CONFIGS)}")
    made = build(CONFIGS[title], device=device)
    model: Any = made.model
    stored = storage_dtype(storage, made.adapter, model.dtype)
    on_gpu = torch.device(device).type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.inference_mode():
        decode = Decoding(model, model, CONTEXT)
        source = GrowingKnowledge(made.adapter, triples, model.dtype, stored, device)
        with made.using(source):
            decode()
            with profiled(activities=activities) as profiler:
                decode()
                if on_gpu:
                    torch.cuda.synchronize()
    _write(profiler, file)
    found = kernels.ranked(profiler, device, STEPS)
    return Profile(sum(kernel.microseconds for kernel in found), found[:top])


def _write(profiler: Any, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole(file) as unfinished:
        profiler.export_chrome_trace(str(unfinished))
