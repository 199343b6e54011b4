"""The tokens with the most mass, without the masses of all: only blocks of tokens that may hold one are looked at.

Technique: block-max indexes (Ding and Suel, "Faster Top-k Document Retrieval Using Block-Max Indexes", SIGIR 2011). The
largest score of a block in each row bounds the mass of its tokens. The blocks of the largest bounds are read first; the
k-th best of their masses is one that any other of the k best has to reach, so what is left are the blocks whose bounds
do. Masses are those of `evidence`, bit for bit, and so is the choice, but among equals.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from kblam_kernels.evidence.call import BLOCK, EvidenceCall, num_blocks
from kblam_kernels.evidence.reference import shares, weighed

# Blocks of a row that are read before there is anything to compare bounds with, for each of the k: with fewer the k-th
# best of them may be far below the k-th best of all, and thousands are left.
FIRST = 2
# Where more than this share of the blocks is to be read, one pass over the whole list takes less time.
FEW = 1 / 4
# A score of the lse and one of a mass are added up in two orders. A bound is for scores that are larger by so much, and
# by this share of themselves.
SLACK, RELATIVE = 0.03, 2.0**-20


def bounds(call: EvidenceCall, block_max: Tensor) -> Tensor:
    """What no token's mass exceeds, of each block, (B, blocks); 0 of one that nobody sees. NaN says nothing."""
    lse, weight = weighed(call)
    # Of -inf it would be inf, and their sum NaN.
    slack = (SLACK + RELATIVE * block_max.abs()).nan_to_num(posinf=0.0)
    return torch.einsum("bhnm,bhn->bm", shares(block_max + slack, lse), weight)


def top(call: EvidenceCall, k: int, block_max: Tensor) -> tuple[Tensor, Tensor]:
    """As `top_evidence`, of a call that the C++ kernels can serve, with weights that are not negative; k <= M."""
    B, first = len(block_max), min(FIRST * k, block_max.shape[-1])
    if first > FEW * block_max.shape[-1]:
        return _of_all(call, k)
    bound = bounds(call, block_max)
    blocks = bound.topk(first, -1).indices  # NaN comes first
    rows = torch.arange(B, device=bound.device).repeat_interleave(first)
    mass, place = (part.view(B, first * BLOCK) for part in _of(call, rows, blocks.flatten()))
    best, at = mass.topk(k, -1)
    best_place = place.gather(1, at)
    left = ~(bound < best[:, -1:])  # NaN too: of an lse that is, all bounds are, and masses outside a range are 0
    left.scatter_(1, blocks, False)
    if left.sum() > FEW * left.numel():
        return _of_all(call, k)
    rows, more = left.nonzero(as_tuple=True)
    if len(rows):
        counts = left.sum(1).tolist()
        masses, places = _of(call, rows, more)
        for row, (mass, place) in enumerate(zip(masses.split(counts), places.split(counts), strict=True)):
            if counts[row]:
                mass, place = (torch.cat([best[row], mass.flatten()]), torch.cat([best_place[row], place.flatten()]))
                best[row], at = mass.topk(k)
                best_place[row] = place[at]
    return best, best_place


def _of_all(call: EvidenceCall, k: int) -> tuple[Tensor, Tensor]:
    mass, place = _kernels().forward(call)[0].topk(k, -1)
    return mass, place


def at(call: EvidenceCall, places: Tensor) -> Tensor:
    """The masses of chosen tokens, (B, S) as `places`, of a call that the C++ kernels can serve."""
    blocks = num_blocks(call.num_tokens)
    of = torch.arange(len(places), device=places.device)[:, None] * blocks + places // BLOCK
    chosen, line = of.unique(return_inverse=True)
    return _kernels().of_blocks(call, chosen // blocks, chosen % blocks)[line, places % BLOCK]


def _of(call: EvidenceCall, rows: Tensor, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Masses of the tokens of blocks, and which they are, (n, BLOCK) each; past the last token -1, which none has."""
    place = blocks[:, None] * BLOCK + torch.arange(BLOCK, device=blocks.device)
    return _kernels().of_blocks(call, rows, blocks).masked_fill_(place >= call.num_tokens, -1.0), place


def _kernels() -> ModuleType:
    """The C++ kernels; imported late, since with them comes Dynamo."""
    from kblam_kernels.evidence import cpu

    return cpu
