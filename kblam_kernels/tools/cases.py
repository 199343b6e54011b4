"""Calls that `resources` compiles: on tensors without memory, one for each row of each tile table and kind of input.

Each row is compiled with the inputs that cost the most registers; prefill also with those of a usual call.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from typing_extensions import Unpack

from kblam_kernels.attention.interface import Options, call_of
from kblam_kernels.common.call import Saved
from kblam_kernels.common.op import Op
from kblam_kernels.common.tiles import Arch
from kblam_kernels.dense.call import DenseCall
from kblam_kernels.dense.op import dense_attention
from kblam_kernels.evidence.call import EvidenceCall
from kblam_kernels.evidence.given import call_of as evidence_call_of
from kblam_kernels.evidence.op import evidence_mass
from kblam_kernels.knowledge import DenseKnowledge, Knowledge, LatentKnowledge, LatentProjection
from kblam_kernels.latent.call import LatentCall
from kblam_kernels.latent.op import latent_attention

ARCHS: tuple[Arch, ...] = ("sm_80", "sm_90")
# Two rows of Llama-3-8B's heads, 10,000 triples.
B, HQ, HKV, T, M = 2, 32, 8, 4096, 10000
BF16, FP16, FP32, INT8, FP8 = torch.bfloat16, torch.float16, torch.float32, torch.int8, torch.float8_e4m3fn
_NAMES = {BF16: "bfloat16", FP16: "float16", FP32: "float32", INT8: "int8", FP8: "fp8"}
WIDTHS = (256, 384, 512, 768, 1024, 1536, 3072)
_QUICK = ((BF16, 384), (INT8, 384), (FP8, 384), (BF16, 1536))


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Args:
        variant: a readable name.
        arch: to compile for.
        launch: runs a launcher.
        extended: whether the quick set leaves it out.
        place: which of its launches is compiled.
    """

    variant: str
    arch: Arch
    launch: Callable[[], Any]
    extended: bool = False
    place: int = 0


def cases() -> Iterator[Case]:
    """All cases."""
    for arch in ARCHS:
        yield from _forward(arch)
    yield from _hopper()
    # The other rows of sm_86 are those of sm_80; test_tiles checks that they fit.
    for kind, N, dtype in (("prefill", 1024, BF16), ("short", 48, BF16), ("prefill", 1024, FP32)):
        yield _pass("sm_86", 256, dtype, N, f"{kind} everything", extended=True)
    for arch in ARCHS:
        yield from _decode(arch)
    for arch in ARCHS:
        yield from _backward(arch)
    for arch in ARCHS:
        yield from _latent(arch)
    yield _latents("sm_86", BF16, 512)
    yield _latents("sm_86", BF16, 512, INT8)
    for arch in ARCHS:
        yield from _evidence(arch)


def _forward(arch: Arch) -> Iterator[Case]:
    # A number for the whole list, as an adapter with a knowledge scale has.
    plain: Options = {"knowledge_bias": _empty()}
    padded: Options = {"knowledge_bias": _empty(), "prompt_mask": _empty(B, T, dtype=torch.bool)}
    for D in (64, 96, 128, 256):
        yield _pass(arch, D, BF16, 1024, "prefill plain", plain)
        yield _pass(arch, D, BF16, 1024, "masked everything")
        yield _pass(arch, D, BF16, 48, "short everything")
        yield _pass(arch, D, BF16, 1024, "masked padded", padded, extended=True)
        yield _pass(arch, D, FP32, 1024, "prefill everything", extended=True)
    yield _pass(arch, 128, FP16, 1024, "prefill plain", plain, extended=True)
    yield _pass(arch, 80, BF16, 1024, "prefill plain", plain, extended=True)


def _pass(
    arch: Arch, D: int, dtype: torch.dtype, N: int, kind: str, has: Options | None = None, *, extended: bool = False
) -> Case:
    launch = _launch(dense_attention, dense_call(dtype, D, N, **(has or everything())))
    return Case(f"{_NAMES[dtype]} D{D} {kind}", arch, launch, extended)


def _hopper() -> Iterator[Case]:
    from kblam_kernels.dense.triton_forward import gluon_kernel

    if (own := gluon_kernel()) is None:
        return  # this Triton serves all calls by the other kernel
    for dtype, shared, biased, extended in (
        (BF16, True, True, False),
        (FP16, False, False, False),
        (BF16, False, True, True),
        (FP16, True, False, True),
    ):
        has: Options = {"knowledge_bias": _empty()} if biased else {}
        call = dense_call(dtype, 128, 1024, shared=shared, **has)
        kind = f"prefill {'shared' if shared else 'own'} lists{' with a bias' if biased else ''}"
        yield Case(f"{_NAMES[dtype]} D128 {kind}", "sm_90", functools.partial(own.forward, call), extended)


def _decode(arch: Arch) -> Iterator[Case]:
    heads = {BF16: (64, 80, 96, 128, 256), FP16: (128,), FP32: (64, 128, 256)}
    for dtype, D in ((dtype, D) for dtype, sizes in heads.items() for D in sizes):
        for inputs, has in (("everything", everything()), ("plain", Options())):
            if inputs == "plain" and (D not in (64, 128) or dtype == FP16):
                continue
            launch = _launch(dense_attention, dense_call(dtype, D, 1, **has))
            extended = (dtype, D, inputs) != (BF16, 128, "everything")
            yield Case(f"{_NAMES[dtype]} D{D} {inputs}", arch, launch, extended)


def _backward(arch: Arch) -> Iterator[Case]:
    # Of each kernel what one block needs: the gradient named first is of its rows or of its columns.
    blocks = {"rows of prompt": "query", "columns of prompt": "key", "rows": "knowledge_query", "columns": "bias"}
    for D in (64, 96, 128):
        call = dense_call(BF16, D, 1024, **everything())
        for block, name in blocks.items():
            launch = functools.partial(_differentiate, call, name)
            yield Case(f"bfloat16 D{D} backward {block}", arch, launch, (D, name) != (128, "bias"))


def _differentiate(call: DenseCall, name: str) -> None:
    results = call.empty()
    dense_attention.named("triton").backward(call, Saved(results, results, (name,), "triton"))


def _latent(arch: Arch) -> Iterator[Case]:
    widths = {BF16: WIDTHS, INT8: WIDTHS, FP8: (384, 768, 1024, 1536), FP16: (384, 1024, 1536)}
    for stored, P in ((stored, P) for stored, sizes in widths.items() for P in sizes):
        yield _latents(arch, BF16, P, stored, extended=(stored, P) not in _QUICK)
    for stored in (FP16, BF16, INT8, FP8):
        yield _latents(arch, FP16, 384, stored)
    for stored in (FP32, FP16, INT8, FP8):
        yield _latents(arch, FP32, 384, stored)
    # So many rows that groups are folded: sums of a second kind on the chip.
    for stored in (BF16, INT8, FP8):
        yield _latents(arch, BF16, 384, stored, N=20)
    # Both ends of a call, which alone see a head; what latents are stored in does not reach them.
    ends = ((BF16, 384, 128), (BF16, 3072, 256), (BF16, 384, 96), (BF16, 384, 64), (FP16, 384, 64), (FP32, 384, 128))
    for dtype, P, D in (*ends, (FP32, 384, 256)):
        for place in (0, 2):
            yield _latents(arch, dtype, P, dtype, D=D, extended=(dtype, P, D) != (BF16, 384, 128), place=place)


def _latents(
    arch: Arch,
    dtype: torch.dtype,
    P: int,
    stored: torch.dtype = BF16,
    *,
    D: int = 128,
    N: int = 1,
    extended: bool = True,
    place: int = 1,
) -> Case:
    kind = "folded" if N > 1 else "everything"
    name = f"{_NAMES[dtype]}{'' if stored == dtype else '/' + _NAMES[stored]} P{P} D{D} {kind}"
    return Case(name, arch, _launch(latent_attention, latent_call(dtype, P, stored, D, N)), extended, place)


def _evidence(arch: Arch) -> Iterator[Case]:
    for layout, rows, width, dtype, stored, extended in (
        ("dense", 1, 128, BF16, BF16, False),
        ("dense", 1, 64, BF16, BF16, True),
        ("dense", 1, 96, BF16, BF16, True),
        ("dense", 1, 256, BF16, BF16, True),
        ("dense", 20, 128, BF16, BF16, True),
        ("dense", 1000, 128, BF16, BF16, False),
        ("dense", 1000, 256, FP16, FP16, True),
        ("dense", 1, 128, FP32, FP32, True),
        ("dense", 1000, 128, FP32, FP32, True),
        ("latent", 32, 384, BF16, BF16, False),
        ("latent", 32, 384, BF16, FP16, True),
        ("latent", 32, 384, BF16, INT8, True),
        ("latent", 32, 384, BF16, FP8, False),
        ("latent", 32, 1536, BF16, BF16, True),
        ("latent", 1024, 384, BF16, FP8, True),
        ("latent", 32, 384, FP32, FP16, True),
        ("latent", 1024, 384, FP32, FP32, True),
    ):
        launch = _launch(evidence_mass, evidence_call(layout, rows, width, dtype, stored))
        yield Case(f"{layout} {_NAMES[dtype]} of {_NAMES[stored]} W{width} rows{rows}", arch, launch, extended)


def _launch(op: Op[Any], call: Any) -> Callable[[], Any]:
    return functools.partial(op.named("triton").forward, call)


def _empty(*shape: int, dtype: torch.dtype = FP32) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def everything() -> Options:
    """All that a call of attention may have."""
    return {
        "knowledge_bias": _empty(B, M),
        "prompt_mask": _empty(B, T, dtype=torch.bool),
        "window": 100,
        "knowledge_range": _empty(B, 2, dtype=torch.int32),
    }


def _attention(knowledge: Knowledge, dtype: torch.dtype, N: int, **has: Unpack[Options]) -> Any:
    query = _empty(B, HQ, N, knowledge.head_dim, dtype=dtype)
    key = _empty(B, HKV, T, knowledge.head_dim, dtype=dtype)
    return call_of(query, key, key, knowledge, None, **has)[1]


def dense_call(dtype: torch.dtype, D: int, N: int, *, shared: bool = True, **has: Unpack[Options]) -> DenseCall:
    """Attention of N new tokens to keys and values that the batch shares, or of which each row has its own."""
    key = _empty(*(() if shared else (B,)), HQ, M, D, dtype=dtype)
    return _attention(DenseKnowledge(key, key), dtype, N, **has)


def latent_call(dtype: torch.dtype, P: int, stored: torch.dtype, D: int, N: int = 1) -> LatentCall:
    """Attention of N new tokens to latents, with every optional tensor."""
    return _attention(_knowledge(dtype, P, stored, D), dtype, N, **everything())


def _knowledge(dtype: torch.dtype, P: int, stored: torch.dtype, D: int) -> LatentKnowledge:
    weight, bias = _empty(HQ, D, P, dtype=dtype), _empty(HQ, D, dtype=dtype)
    latents, scale = _empty(M, P, dtype=stored), _empty(M) if stored in (INT8, FP8) else None
    return LatentKnowledge(latents, latents, _empty(M), LatentProjection(weight, bias, weight, bias), scale, scale)


def evidence_call(layout: str, rows: int, width: int, dtype: torch.dtype, stored: torch.dtype) -> EvidenceCall:
    """Masses from `rows` rows for each key head, with a bias and a range for each batch row."""
    if layout == "latent":
        knowledge: Knowledge = _knowledge(dtype, width, stored, 128)
        rows //= HQ
    else:
        key = _empty(B, HQ, M, width, dtype=stored)
        knowledge = DenseKnowledge(key, key)
    query, lse, every = _empty(B, HQ, rows, knowledge.head_dim, dtype=dtype), _empty(B, HQ, rows), everything()
    bias, ranges = every["knowledge_bias"], every["knowledge_range"]
    return evidence_call_of(query, knowledge, lse, lse, knowledge_bias=bias, knowledge_range=ranges)
