"""One row for each provider and shape, beside the ceilings of the same run.

Every turn times each provider once, and the ceilings beside them, so that a change of the machine's load affects all
of them; medians are reported. The ceiling is the least time the work can take: a stream over the same bytes, or as many
multiplications at the rate of matrix products, whichever is longer. That rate is the faster of a large square product
and one of tiles (oneDNN's brgemm). A share of the ceiling is computed within a turn, and the median of the turns is
reported: the speed of a shared machine drifts, so one turn's ceiling says nothing about another's.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any, TypedDict

import torch
from torch import Tensor

from kblam_kernels.bench import providers
from kblam_kernels.bench.shapes import DTYPES, Inputs, Shape, make
from kblam_kernels.common import native
from kblam_kernels.errors import BackendUnavailableError, KernelError

BUDGET = 20.0  # seconds after which a shape gets no more repeats
SIDE = 1024  # of the square matrices whose product is a ceiling of arithmetic
# Of the other product: a tile of tokens by the width of a key, times queries; so many that every thread has some.
TILE_TOKENS, TILE_QUERIES = 128, 256
PRODUCTS = 3  # in a turn: the first of them wakes the threads
TOLERANCE = {"float32": 1e-3, "bfloat16": 3e-2}
INT8_TOLERANCE = 3e-2
LAYOUTS = ("latent int8", "latent", "dense")
READ, PRODUCT = "ceiling: read", "ceiling: product"


class Row(TypedDict):
    """A row of `kblam bench --json`; ms of all heads, `share_of_ceiling` of the work of the provider's own layout."""

    regime: str
    provider: str
    triples: int
    queries: int
    dtype: str
    ms: float
    ratio_to_best_peer: float
    share_of_ceiling: float


def measure(shape: Shape, *, repeats: int = 9, flex: bool = True) -> list[Row]:
    """Rows of a shape: ours, the peers, and the ceilings of both layouts.

    Raises:
        BackendUnavailableError: if the C++ kernels cannot be used here; the message has the reason.
        KernelError: if a provider's result differs from the others'.
    """
    reason = native.unavailable()
    if reason is not None:
        raise BackendUnavailableError(f"backend 'cpu' cannot be measured: {reason}")
    with torch.no_grad():
        x = make(shape)
        ours, peers = providers.ours(shape, x), providers.peers(shape, x, flex=flex)
        _check(shape, {**ours, **peers})
        ceilings = _ceilings(shape, x)
        times = _timed({**ours, **peers, **ceilings}, repeats)
    turns = [{name: of[turn] for name, of in times.items()} for turn in range(len(next(iter(times.values()))))]
    floors = {layout: [_floor(shape, layout, turn) for turn in turns] for layout in LAYOUTS}
    # Heads are independent, so the time of some heads is scaled to all.
    scaled = {name: [ms * _share_of_heads(shape, name) for ms in of] for name, of in times.items()}
    best = min(statistics.median(scaled[name]) for name in peers)
    rows = []
    for name, of in scaled.items():
        if name.startswith(PRODUCT):
            continue
        floor = floors[next((layout for layout in LAYOUTS if layout in name), "dense")]
        of = floor if name.startswith(READ) else of
        shown = statistics.median(of)
        rows.append(
            Row(
                regime=shape.row_regime,
                provider=name.replace(READ, "ceiling"),
                triples=shape.triples,
                queries=shape.queries,
                dtype=shape.dtype,
                ms=round(shown, 4),
                ratio_to_best_peer=round(best / shown, 3),
                share_of_ceiling=round(statistics.median(least / ms for least, ms in zip(floor, of, strict=True)), 3),
            )
        )
    return rows


def _share_of_heads(shape: Shape, name: str) -> float:
    whole = "latent" in name or name.startswith(PRODUCT)
    return 1.0 if whole else shape.heads / shape.dense_heads


def _floor(shape: Shape, layout: str, times: dict[str, float]) -> float:
    """The least milliseconds that reading and multiplying take, over all heads."""
    width = _width(shape, layout)
    multiplications = 2 * shape.heads * shape.queries * shape.triples * width
    tiles = _tiles() * TILE_TOKENS * width * TILE_QUERIES
    if layout == "latent int8":
        rate = SIDE**3 / times[f"{PRODUCT}, int8"]
    else:
        rate = max(SIDE**3 / times[f"{PRODUCT}, square"], tiles / times[f"{PRODUCT}, {layout}"])
    name = f"{READ}, {layout}"
    return max(times[name] * _share_of_heads(shape, name), multiplications / rate)


def _width(shape: Shape, layout: str) -> int:
    return shape.head_dim if layout == "dense" else shape.width


def _tiles() -> int:
    return 4 * torch.get_num_threads()


def _check(shape: Shape, calls: dict[str, providers.Call]) -> None:
    expected = calls["two calls and merge"]().float()
    tolerance = TOLERANCE[shape.dtype]
    for name, call in calls.items():
        # Ours on latents has all heads, even where the others have fewer.
        actual = call()[:, : shape.dense_heads].float()
        error = ((actual - expected).norm() / expected.norm()).item()
        if not error <= (INT8_TOLERANCE if "int8" in name else tolerance):
            raise KernelError(f"{name} is off by {error:.2g} for {shape}; nothing wrong is timed")


def _ceilings(shape: Shape, x: Inputs) -> dict[str, Callable[[], Any]]:
    def product(*sizes: int, inner: int) -> Callable[[], Tensor]:
        *batch, rows, columns = sizes
        a, b = (torch.randn(*batch, *of).to(DTYPES[shape.dtype]) for of in ((rows, inner), (inner, columns)))
        return lambda: a @ b

    dense = x.dense(shape.triples)
    whole = torch.randint(-127, 128, (SIDE, SIDE), dtype=torch.int8)
    found: dict[str, Callable[[], Any]] = {
        f"{READ}, latent int8": lambda: [_read(t) for t in (x.int8_latents.key, x.int8_latents.value)],
        f"{READ}, latent": lambda: [_read(t) for t in (x.latents.key, x.latents.value)],
        f"{READ}, dense": lambda: [_read(t) for t in (dense.key, dense.value)],
        f"{PRODUCT}, square": product(SIDE, SIDE, inner=SIDE),
        f"{PRODUCT}, int8": lambda: torch._int_mm(whole, whole),
    }
    for layout in ("latent", "dense"):
        width = _width(shape, layout)
        found[f"{PRODUCT}, {layout}"] = product(_tiles(), TILE_TOKENS, TILE_QUERIES, inner=width)
    return found


def _read(tensor: Tensor) -> Tensor:
    """A pass of all threads over memory that does next to nothing with it; the last dimension is contiguous."""
    return tensor.view(torch.int32).amax()


def _timed(calls: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Milliseconds of each in each turn; the first turn warms up. Three turns at least, then BUDGET.

    A call starts with what the others left in the caches. The fastest of the products in a turn counts.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    begin = time.perf_counter()
    for repeat in range(repeats + 1):
        if repeat > 3 and time.perf_counter() - begin > BUDGET:
            break
        for name, call in calls.items():
            took = []
            for _ in range(PRODUCTS if name.startswith(PRODUCT) else 1):
                start = time.perf_counter()
                call()
                took.append((time.perf_counter() - start) * 1e3)
            if repeat:
                times[name].append(min(took))
    return times
