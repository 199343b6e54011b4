"""The named cases of every op. Inputs are drawn from a seed, so a case is the same on every machine.

Attention to dense knowledge has a grid (`GRID`): a name tells the shape, then what is unusual: "B2-N63-M100-D96",
"B2-N40-M70-D64-left-window7". Latents and evidence have tables of arguments of `problems.make`. Shapes are small enough
for Triton's interpreter and still span several of its tiles and splits.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kblam_kernels.common.splits import MIN_DENSE_SPLIT, PROMPT_SPLIT
from tests.kernels.problems import INF, Problem, make

Change = Callable[[Problem], Problem]


@dataclass(frozen=True)
class Case:
    """One row of the grid; `problem` makes its inputs."""

    B: int
    N: int
    M: int
    D: int
    T: int | None = None
    H: int = 2
    G: int = 1
    shared: bool = True
    changes: dict[str, Change] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The id of the case."""
        parts = [f"B{self.B}", f"N{self.N}", f"M{self.M}", f"D{self.D}"]
        if self.T is not None:
            parts.insert(2, f"T{self.T}")
        if (self.H, self.G) != (2, 1):
            parts.append(f"H{self.H}over{self.G}")
        if not self.shared:
            parts.append("per_row")
        return "-".join([*parts, *self.changes])

    def problem(self, dtype: torch.dtype = torch.float64) -> Problem:
        """Inputs rounded to `dtype`, on the CPU."""
        sizes: dict[str, Any] = {name: getattr(self, name) for name in ("B", "H", "G", "N", "M", "D")}
        made = make(T=self.T or self.N, shared=self.shared, seed=len(self.name), **sizes).to(dtype)
        # After the conversion, which would make every tensor dense.
        for change in self.changes.values():
            made = change(made)
        return made


def _mask(*rows: Callable[[Tensor], Tensor]) -> Change:
    """Row b of the prompt mask is `rows[b % len(rows)]` of its column numbers."""

    def change(p: Problem) -> Problem:
        B, T = p.query.shape[0], p.key.shape[2]
        column = torch.arange(T)
        return p.but(prompt_mask=torch.stack([rows[b % len(rows)](column).expand(T) for b in range(B)]))

    return change


def _every(column: Tensor) -> Tensor:
    return column >= 0


def bias(make_bias: Callable[[int, int], float | Tensor]) -> Change:
    """`knowledge_bias` from (B, M)."""
    return lambda p: p.but(knowledge_bias=make_bias(p.query.shape[0], p.knowledge.num_tokens))


def _normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def some_hidden(B: int, M: int) -> Tensor:
    return _normal(B, M).masked_fill(torch.arange(M) % 3 == 1, -INF)


def ranges(*ends: tuple[int, int], dtype: torch.dtype = torch.int32) -> Change:
    return lambda p: p.but(
        knowledge_range=torch.tensor([ends[b % len(ends)] for b in range(p.query.shape[0])], dtype=dtype)
    )


def model_layout(p: Problem) -> Problem:
    """As a model holds them: heads inside tokens, knowledge as one slot of several, each with room around it."""

    def inside_tokens(t: Tensor) -> Tensor:
        B, heads, tokens, D = t.shape
        roomy = torch.full((B, tokens + 3, heads, D + 8), float("nan"), dtype=t.dtype)
        held = roomy[:, 1 : tokens + 1, :, :D]
        held.copy_(t.transpose(1, 2))
        return held.transpose(1, 2)

    def slot(t: Tensor) -> Tensor:
        heads, tokens, D = t.shape
        slots = torch.full((tokens, 3, heads, D), float("nan"), dtype=t.dtype)
        slots[:, 1] = t.transpose(0, 1)
        return slots[:, 1].transpose(0, 1)

    return p.but(
        **{name: inside_tokens(getattr(p, name)) for name in ("query", "key", "value", "knowledge_query")},
        **{name: slot(getattr(p, name)) for name in ("knowledge_key", "knowledge_value")},
    )


def _gapped_mask(p: Problem) -> Problem:
    assert p.prompt_mask is not None
    wide = torch.zeros(p.prompt_mask.shape[0], 2 * p.prompt_mask.shape[1], dtype=torch.bool)
    wide[:, ::2] = p.prompt_mask
    return p.but(prompt_mask=wide[:, ::2])


def _louder(factor: float) -> Change:
    return lambda p: p.but(query=p.query * factor, knowledge_query=p.knowledge_query * factor)


# Past what a float32 exponential can hold: e^-200 is 0, e^200 overflows.
FAR = 200.0
INT64 = torch.iinfo(torch.int64)

LEFT = _mask(_every, lambda c: c >= 37, lambda c: c >= 5)
RIGHT = _mask(lambda c: c < 11, _every)
SCATTERED = _mask(lambda c: c % 3 != 0, lambda c: (c * 7) % 5 > 1)
NOTHING = _mask(_every, lambda c: c < 0)


def window(size: int) -> Change:
    return lambda p: p.but(window=size)


GRID: tuple[Case, ...] = (
    # Shapes: one query, no knowledge, one token, primes, whole tiles and not.
    Case(1, 1, 0, 64),
    Case(2, 1, 1, 64, T=17),
    Case(2, 1, 97, 128, T=70),
    Case(1, 5, 0, 16),
    Case(2, 63, 100, 96),
    Case(1, 64, 64, 64),
    Case(1, 33, 31, 80, T=65),
    Case(1, 40, 70, 128),
    Case(1, 34, 65, 256, T=40),
    # Head dimensions: small, odd, just over a power of two, cut in two with a padded rest.
    Case(1, 7, 33, 8),
    Case(1, 7, 33, 12),
    Case(1, 7, 33, 24),
    Case(1, 7, 33, 33),
    Case(1, 7, 33, 72),
    Case(1, 7, 33, 160),
    # Heads.
    Case(2, 5, 40, 32, H=4, G=4),
    Case(2, 5, 40, 32, H=4, G=1),
    Case(1, 5, 40, 32, H=6, G=2, T=9),
    # Knowledge of each row's own.
    Case(2, 33, 50, 64, shared=False),
    # Padding.
    Case(3, 40, 50, 64, changes={"left": LEFT}),
    Case(2, 40, 50, 64, changes={"right": RIGHT}),
    Case(2, 40, 50, 64, T=70, changes={"scattered": SCATTERED}),
    Case(2, 40, 50, 64, changes={"one_row_all_padding": NOTHING}),
    Case(2, 1, 50, 64, T=40, changes={"left": LEFT}),
    Case(2, 33, 0, 64, changes={"left": LEFT}),
    Case(2, 40, 50, 32, changes={"scattered": SCATTERED, "gapped_mask": _gapped_mask}),
    # Windows: smaller than a tile, a tile, across tiles, wider than the prompt.
    Case(1, 70, 20, 32, changes={"window1": window(1)}),
    Case(1, 70, 20, 32, changes={"window7": window(7)}),
    Case(1, 70, 20, 32, T=100, changes={"window32": window(32)}),
    Case(1, 70, 20, 32, T=100, changes={"window45": window(45)}),
    Case(1, 40, 20, 32, changes={"window99": window(99)}),
    Case(1, 1, 20, 32, T=80, changes={"window9": window(9)}),
    Case(3, 70, 20, 32, changes={"left": LEFT, "window9": window(9)}),
    # Ranges: of each row, empty, a few tiles into the list, past its end.
    Case(4, 5, 100, 32, changes={"ranges": ranges((0, 100), (40, 41), (33, 97), (7, 7))}),
    Case(2, 33, 70, 32, shared=False, changes={"ranges": ranges((3, 68), (64, 200))}),
    # "No end" and "from the beginning" as int64 says them.
    Case(2, 1, 70, 32, changes={"no_end": ranges((0, INT64.max), (INT64.min, 40), dtype=torch.int64)}),
    Case(2, 33, 70, 32, changes={"no_end": ranges((0, INT64.max), (INT64.min, 40), dtype=torch.int64)}),
    # Bias: for the list, for each token, for each token and row; hiding some, all.
    Case(2, 5, 50, 32, changes={"bias": bias(lambda B, M: -2.5)}),
    Case(2, 5, 50, 32, changes={"bias_hides_all": bias(lambda B, M: -INF)}),
    Case(2, 33, 70, 32, changes={"token_bias": bias(lambda B, M: _normal(M))}),
    Case(2, 33, 70, 32, changes={"row_bias": bias(_normal)}),
    Case(2, 33, 70, 32, changes={"row_bias_hides_some": bias(some_hidden)}),
    Case(1, 5, 70, 32, changes={"token_bias_hides_all": bias(lambda B, M: torch.full((M,), -INF))}),
    Case(2, 5, 0, 32, changes={"bias": bias(lambda B, M: 1.5)}),
    # Memory.
    Case(2, 33, 50, 64, T=40, changes={"model_layout": model_layout}),
    Case(1, 33, 50, 24, T=70, changes={"model_layout": model_layout}),
    Case(1, 33, 50, 72, T=70, changes={"model_layout": model_layout}),
    # Numbers: peaked, flat and negative scores, and scores of which one exponential alone would overflow.
    Case(1, 33, 50, 64, changes={"scale0": lambda p: p.but(scale=0.0)}),
    Case(1, 33, 50, 64, changes={"negative_scale": lambda p: p.but(scale=-0.2)}),
    Case(1, 33, 50, 64, changes={"loud": _louder(30.0)}),
    Case(1, 1, 50, 64, changes={"loud": _louder(30.0)}),
    # One block's scores so far above the other's that the other weighs nothing; who sees the prompt must not change.
    Case(2, 1, 50, 32, T=40, changes={"knowledge_far_above": bias(lambda B, M: FAR)}),
    Case(2, 33, 50, 32, T=40, changes={"knowledge_far_above": bias(lambda B, M: FAR)}),
    Case(2, 40, 50, 32, T=40, changes={"left": LEFT, "knowledge_far_above": bias(lambda B, M: FAR)}),
    Case(2, 1, 50, 32, T=40, changes={"nothing": NOTHING, "knowledge_far_above": bias(lambda B, M: FAR)}),
    Case(2, 1, 50, 32, T=40, changes={"knowledge_far_below": bias(lambda B, M: -FAR)}),
    # All at once.
    Case(
        3,
        40,
        70,
        80,
        T=60,
        H=4,
        G=2,
        changes={
            "left": LEFT,
            "window30": window(30),
            "ranges": ranges((0, 70), (10, 50), (69, 70)),
            "row_bias": bias(some_hidden),
            "model_layout": model_layout,
        },
    ),
)

assert len({case.name for case in GRID}) == len(GRID)
ALL_AT_ONCE = GRID[-1]

# The grid's prompts, knowledge, masks, windows, ranges and biases, seen by 1 to 4 new queries.
FEW: tuple[Case, ...] = tuple(
    {case.name: case for case in (dataclasses.replace(c, N=min(c.N, 4), T=c.T or c.N) for c in GRID)}.values()
)
# Two whole splits of knowledge and a piece; two splits of prompt.
LONG_DENSE = 2 * MIN_DENSE_SPLIT + 37
SPLITS: tuple[Case, ...] = (
    Case(1, 1, LONG_DENSE, 16, T=PROMPT_SPLIT + 9),
    Case(2, 1, 2 * MIN_DENSE_SPLIT, 16, T=PROMPT_SPLIT),
    Case(2, 3, LONG_DENSE, 16, T=300, H=4, G=1, changes={"window40": window(40)}),
    Case(2, 1, LONG_DENSE, 16, shared=False),
    Case(
        4,
        2,
        LONG_DENSE,
        16,
        changes={"ranges": ranges((0, LONG_DENSE), (260, 261), (LONG_DENSE - 1, LONG_DENSE + 9), (512, 9))},
    ),
    Case(2, 1, LONG_DENSE, 16, changes={"row_bias_hides_some": bias(some_hidden)}),
)

# Of the single pass in other dtypes, beside two that the grid lacks.
OTHER_SHAPES: tuple[Case, ...] = (Case(2, 35, 40, 96),)
OTHER_DTYPES: tuple[Case, ...] = (
    Case(1, 1, 0, 64),
    *OTHER_SHAPES,
    Case(1, 7, 33, 72),
    Case(3, 40, 50, 64, changes={"left": LEFT}),
    ALL_AT_ONCE,
)

LEFT_PADDED = torch.tensor([[False] * 8 + [True], [True] * 9])
SCATTERED_9 = torch.tensor([[True, False, True, True, False, True, True, False, True], [False] * 3 + [True] * 6])
# In the interpreter ten splits of 32 latents, the last one ragged: more than a group.
LONG = 293
TOKEN_BIAS = torch.randn(LONG, generator=torch.Generator().manual_seed(3))
TOKEN_BIAS[::7] = -INF

# Arguments of `make_latent`.
LATENT: dict[str, dict[str, Any]] = {
    "decode": {"N": 1, "M": LONG},
    "one-row": {"B": 1, "H": 1, "G": 1, "N": 1, "T": 1, "M": 1},
    "several-new-tokens": {"N": 5, "M": 20},
    "several-row-tiles": {"B": 3, "H": 6, "G": 3, "N": 3, "M": 33},
    "M0": {"M": 0},
    "M-prime": {"N": 1, "M": 131},
    "M-whole-splits": {"N": 1, "M": 256},
    "mqa": {"N": 1, "G": 1, "M": 20},
    "no-cache": {"N": 9, "G": 4},
    "prompt-splits": {"B": 1, "H": 2, "G": 1, "N": 2, "T": 300, "M": 9},
    "left-padded": {"prompt_mask": LEFT_PADDED},
    "left-padded-M0": {"prompt_mask": LEFT_PADDED, "M": 0},
    "scattered-window": {"prompt_mask": SCATTERED_9, "window": 3, "N": 4},
    "window-past-a-tile": {"B": 1, "H": 2, "G": 2, "N": 1, "T": 300, "window": 40},
    "ranges": {"N": 1, "M": LONG, "knowledge_range": torch.tensor([[5, 150], [130, 500]], dtype=torch.int32)},
    "empty-and-reversed-ranges": {"N": 1, "M": 140, "knowledge_range": torch.tensor([[70, 70], [9, 3]])},
    "hidden-splits": {"N": 1, "M": LONG, "knowledge_range": torch.tensor([[129, 131], [-4, 2]], dtype=torch.int64)},
    "token-bias": {"N": 1, "M": LONG, "knowledge_bias": TOKEN_BIAS},
    "row-bias": {"N": 1, "M": LONG, "knowledge_bias": torch.stack([TOKEN_BIAS, TOKEN_BIAS.flip(0)])},
    "scalar-bias-scale": {"knowledge_bias": -0.75, "scale": 0.4},
    "all-hidden": {"knowledge_bias": -INF},
    "knowledge-far-above": {"N": 1, "M": LONG, "knowledge_bias": FAR},
    "knowledge-far-above-left-padded": {"N": 2, "M": 20, "knowledge_bias": FAR, "prompt_mask": LEFT_PADDED},
    "knowledge-far-below": {"N": 1, "M": 20, "knowledge_bias": -FAR},
    "no-end": {"N": 1, "M": 140, "knowledge_range": torch.tensor([[0, INT64.max], [INT64.min, 90]])},
    "head-dim-not-a-power-of-two": {"D": 24, "M": 9},
    "head-dim-of-two-chunks": {"B": 1, "D": 96, "M": 9},
    "head-dim-past-128": {"B": 1, "H": 2, "G": 1, "N": 2, "D": 160, "M": 9},
    "latents-of-three-chunks": {"N": 1, "P": 48, "M": 40},
    "latents-of-a-prime-width": {"N": 1, "P": 37, "M": 40},
    "latents-narrower-than-a-chunk": {"N": 1, "P": 5, "M": 40},
}

SCORE_RANGES = torch.tensor([[0, 70], [33, 35], [40, 200], [9, 9]], dtype=torch.int32)
SCORE_NO_END = torch.tensor([[0, INT64.max], [INT64.min, 40]])
SCORE_BIAS = torch.randn(70, generator=torch.Generator().manual_seed(0)).masked_fill(torch.arange(70) % 5 == 2, -INF)
SCORE_MASK = torch.arange(9) >= torch.tensor([[0], [8], [3]])
# Knowledge so far above the prompt that the prompt weighs nothing, and the other way round.
_FAR: dict[str, dict[str, Any]] = {
    "far-above": {"N": 1, "M": 40, "knowledge_bias": FAR},
    "far-above-left-padded": {"B": 3, "N": 9, "M": 40, "knowledge_bias": FAR, "prompt_mask": SCORE_MASK},
    "far-below": {"N": 1, "M": 40, "knowledge_bias": -FAR},
}

# Evidence of dense knowledge: arguments of `make`.
EVIDENCE: dict[str, dict[str, Any]] = {
    "decode": {"N": 1, "M": 70},
    "several-rows": {"N": 5, "M": 33, "D": 24},
    "more-rows-than-a-tile": {"N": 19, "T": 20, "M": 33},
    "heads-of-two-chunks": {"B": 1, "H": 2, "N": 1, "M": 40, "D": 160},
    "per-row": {"N": 2, "M": 40, "shared": False},
    "ranges": {"B": 4, "N": 1, "M": 70, "knowledge_range": SCORE_RANGES},
    "no-end": {"N": 1, "M": 70, "knowledge_range": SCORE_NO_END},
    "token-bias": {"N": 1, "M": 70, "knowledge_bias": SCORE_BIAS},
    "row-bias": {"N": 1, "M": 70, "knowledge_bias": torch.stack([SCORE_BIAS, SCORE_BIAS.flip(0)])},
    "all-hidden": {"N": 1, "M": 40, "knowledge_bias": -INF},
    "left-padded": {"B": 3, "N": 9, "M": 40, "prompt_mask": SCORE_MASK},
    "M0": {"M": 0},
    "M1": {"M": 1},
    "no-query": {"N": 0, "M": 5},
    "scale": {"N": 1, "M": 40, "scale": -0.4},
    **_FAR,
}
# Evidence of latents: arguments of `make_latent`.
LATENT_EVIDENCE: dict[str, dict[str, Any]] = {
    "decode": {"N": 1, "M": 70},
    "more-rows-than-a-tile": {"H": 8, "N": 5, "M": 33},
    "wide": {"B": 1, "N": 1, "M": 33, "P": 400},
    "prime-width": {"N": 1, "M": 33, "P": 37},
    "ranges": {"B": 4, "N": 1, "M": 70, "knowledge_range": SCORE_RANGES.long()},
    "no-end": {"N": 1, "M": 70, "knowledge_range": SCORE_NO_END},
    "row-bias": {"N": 1, "M": 70, "knowledge_bias": torch.stack([SCORE_BIAS, SCORE_BIAS.flip(0)])},
    "left-padded": {"B": 3, "N": 9, "M": 40, "prompt_mask": SCORE_MASK},
    "M0": {"M": 0},
    **_FAR,
}
