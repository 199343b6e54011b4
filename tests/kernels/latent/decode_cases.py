"""What latent decode is tested on: named problems, tiles that fit the interpreter, the op's arguments of a problem."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from kblam_kernels.latent.interface import absorb_query
from kblam_kernels.latent.tiles import LatentTile
from kblam_kernels.rectangular.chunks import MIN_SPLIT
from tests import tolerances
from tests.kernels.cases import FAR, INT64
from tests.kernels.latent.latent_problems import INF, LatentProblem

LEFT_PADDED = torch.tensor([[False] * 8 + [True], [True] * 9])
SCATTERED = torch.tensor([[True, False, True, True, False, True, True, False, True], [False] * 3 + [True] * 6])
DRAW = torch.Generator().manual_seed(3)
# Several splits of at least MIN_SPLIT tokens, the last one ragged.
LONG = 2 * MIN_SPLIT + 37
TOKEN_BIAS = torch.randn(LONG, generator=DRAW)
TOKEN_BIAS[::7] = -INF

CASES: dict[str, dict[str, Any]] = {
    "decode": {"N": 1, "M": LONG},
    "one-row": {"B": 1, "H": 1, "G": 1, "N": 1, "T": 1, "M": 1},
    "several-new-tokens": {"N": 5, "M": 20},
    "several-row-tiles": {"B": 3, "H": 6, "G": 3, "N": 3, "M": 33},
    "M0": {"M": 0},
    "M-prime": {"N": 1, "M": 131},
    "M-whole-splits": {"N": 1, "M": 2 * MIN_SPLIT},
    "mqa": {"N": 1, "G": 1, "M": 20},
    "prompt-splits": {"B": 1, "H": 2, "G": 1, "N": 2, "T": 300, "M": 9},
    "left-padded": {"prompt_mask": LEFT_PADDED},
    "left-padded-M0": {"prompt_mask": LEFT_PADDED, "M": 0},
    "scattered-window": {"prompt_mask": SCATTERED, "window": 3, "N": 4},
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
SMALL = LatentTile(16, 16, True, 1, num_warps=4, num_stages=2, widest_chunk=16)
TILES = {
    "parts": SMALL,
    "uneven-parts": dataclasses.replace(SMALL, value_chunks=2),
    "streamed": dataclasses.replace(SMALL, resident=False),
}


def hold(problem: LatentProblem, device: str = "cpu") -> None:
    """Triton's result on a device against float64, and against plain PyTorch of the same dtype."""
    output, lse = (result.cpu() for result in problem.on(device).run("triton"))
    exact, exact_lse = problem.exact()
    tolerances.check_output(output, exact, problem.run()[0])
    # Absorbed queries are rounded to the dtype, so scores are off by its rounding, however they are summed.
    assert torch.equal(lse == -INF, exact_lse == -INF)
    _, plain_lse = problem.run()
    if {problem.query.dtype, problem.knowledge.key.dtype} == {torch.float16, torch.bfloat16}:
        # The latents are rounded to the model's dtype on the chip; the specification takes them as they are.
        eps = torch.finfo(problem.query.dtype).eps
        torch.testing.assert_close(lse, plain_lse, rtol=eps, atol=eps)
    else:
        tolerances.check_lse(lse, plain_lse.double())
    assert (output[exact_lse == -INF] == 0).all()


def arguments_of(problem: LatentProblem) -> dict[str, Any]:
    """Those of the op's forward."""
    k, bias = problem.knowledge, problem.knowledge_bias
    absorbed_query, constant = absorb_query(problem.knowledge_query, k)
    return {
        "query": problem.query,
        "key": problem.key,
        "value": problem.value,
        "latent_key": k.key,
        "latent_value": k.value,
        "norm": k.norm,
        "key_scale": k.key_scale,
        "value_scale": k.value_scale,
        "absorbed_query": absorbed_query,
        "constant": constant,
        "bias": (bias if bias.dim() == 2 else bias[None]) if isinstance(bias, Tensor) else None,
        "prompt_mask": problem.prompt_mask,
        "knowledge_range": problem.knowledge_range,
        "scale": 0.25,
        "window": problem.window,
    }


def one_row(arguments: dict[str, Any], b: int) -> dict[str, Any]:
    """The arguments of row b alone."""
    latents = ("latent_key", "latent_value", "norm", "key_scale", "value_scale")
    return {
        name: value[b : b + 1] if isinstance(value, Tensor) and name not in latents and len(value) > 1 else value
        for name, value in arguments.items()
    }
