"""Who is measured on a shape: our dense and latent paths and the peers, each with what it is judged by."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kblam.bench import peers
from kblam.bench.composed import composed_latent
from kblam.bench.operands import Peer
from kblam.bench.problems import BIAS, Judge, Knowledge, Problem, attention_judge, evidence_judge
from kblam.bench.shapes import Shape, Work
from kblam_kernels import evidence, explain, rectangular_attention

Call = Callable[[], Tensor]
LATENT, INT8, INT8_PRODUCTS, FP8, DENSE, MATERIALISE = (
    f"kblam {layout}" for layout in ("latent", "latent int8", "int8 products", "latent fp8", "dense", "materialise")
)
OURS = (LATENT, INT8, INT8_PRODUCTS, FP8, DENSE, MATERIALISE)
# Keys and values are not made anew for one token, and evidence reads keys alone.
NOT_IN = {"decode": {MATERIALISE}, "evidence": {INT8, INT8_PRODUCTS, FP8, MATERIALISE}}
STORED = {INT8: torch.int8, INT8_PRODUCTS: torch.int8, FP8: torch.float8_e4m3fn}
COMPOSED = "composed latent"
# Ours by the path that `kblam_kernels.plan` names.
PATHS = {"latent": (LATENT, *STORED), "dense": (DENSE,), "materialise": (MATERIALISE,)}


@dataclass(frozen=True)
class Subject:
    """One implementation on one shape.

    Args:
        name: of the implementation.
        build: makes the call on a copy of the inputs; what it allocates is not timed.
        judge: computed when first asked for.
        work: what a call for all heads must do at least.
        streams: the knowledge that a call reads.
        layout: subjects of one layout read the same bytes.
        backend: which of our backends serves; None for peers.
        unavailable: why it does not run here, or None.
        share: of the heads that a call computes; its time is scaled to all.
    """

    name: str
    build: Callable[[Problem], Call]
    judge: Callable[[], Judge]
    work: Work
    streams: Callable[[Problem], list[Tensor]]
    layout: str
    backend: str | None = None
    unavailable: str | None = None
    share: float = 1.0

    @property
    def is_ours(self) -> bool:
        """Held to the tolerance of the tests; peers to a looser one."""
        return self.name in OURS

    @property
    def is_rounded(self) -> bool:
        """Whether it multiplies as int8, which costs exactness on purpose."""
        return self.name == INT8_PRODUCTS


def names(phase: str, device: str, *, quick: bool = False) -> list[str]:
    """Of the implementations that a phase has on a device, ours first."""
    left_out = NOT_IN.get(phase, set())
    ours = [name for name in OURS if name not in left_out]
    if torch.device(device).type == "cuda" and INT8_PRODUCTS in ours:
        ours.remove(INT8_PRODUCTS)  # the Triton kernels multiply int8 latents in the query's dtype
    if phase == "evidence":
        return ours + list(peers.EVIDENCE_PEERS)
    return [*ours, COMPOSED, *(name for name in peers.PEERS if not (quick and name in peers.SLOW))]


def work_of(shape: Shape, name: str) -> Work:
    """What a call of an implementation on a shape must do at least."""
    if shape.phase == "evidence":
        return shape.latent_evidence_work if name == LATENT else shape.dense_evidence_work
    if name in STORED:
        return shape.quantised_work
    if name == MATERIALISE:
        return shape.materialise_work
    return shape.latent_work if name in (LATENT, COMPOSED) else shape.dense_work


def subjects(
    shape: Shape,
    x: Problem,
    chosen: Sequence[str],
    *,
    compiles: bool = True,
    own_peers: Mapping[str, Peer] | None = None,
) -> Iterator[Subject]:
    """Those of `chosen` that the phase has. Nothing large is made before a subject is built or judged.

    Args:
        shape, x: what is computed.
        chosen: names.
        compiles: whether peers that need a compiler are measured.
        own_peers: of the caller, beside `peers.PEERS`; not for evidence.
    """
    if shape.phase == "evidence":
        made = _evidence_subjects(shape, x, compiles)
    else:
        made = _attention_subjects(shape, x, compiles, {**peers.PEERS, **(own_peers or {})})
    return (subject for subject in made if subject.name in chosen)


def _attention_subjects(shape: Shape, x: Problem, compiles: bool, rivals: Mapping[str, Peer]) -> Iterator[Subject]:
    device = str(x.query.device)
    latent_judge = functools.cache(lambda: attention_judge(x, x.latents))
    dense_judge = functools.cache(lambda: attention_judge(x, x.dense))
    int8_judge = functools.cache(lambda: attention_judge(x, x.stored(torch.int8)))
    fp8_judge = functools.cache(lambda: attention_judge(x, x.stored(torch.float8_e4m3fn)))

    yield Subject(
        LATENT,
        lambda p: _attend(p, p.latents),
        latent_judge,
        work_of(shape, LATENT),
        lambda p: [p.latents.key, p.latents.value],
        "latent",
        backend=_served(x, x.latents),
    )
    for name, dtype in STORED.items():
        yield Subject(
            name,
            functools.partial(
                lambda name, dtype, p: _attend(p, p.stored(dtype), int8_products=name == INT8_PRODUCTS), name, dtype
            ),
            fp8_judge if name == FP8 else int8_judge,
            work_of(shape, name),
            functools.partial(lambda dtype, p: [p.stored(dtype).key, p.stored(dtype).value], dtype),
            "latent fp8" if name == FP8 else "latent int8",
            # A backend is chosen by dtypes and widths: no need to make all keys before it is their turn.
            backend=_served(x, x.quantised(dtype, tokens=0)),
        )
    dense = functools.partial(
        Subject,
        judge=dense_judge,
        streams=lambda p: [p.dense.key, p.dense.value],
        layout="dense",
        share=x.part.query.shape[1] / x.query.shape[1],
    )
    yield dense(DENSE, lambda p: _attend(p.part, p.dense), work=work_of(shape, DENSE), backend=_served(x, x.no_keys))
    if MATERIALISE not in NOT_IN.get(shape.phase, set()):
        # It reads latents of all heads at once, and its time is that of `part`.
        yield dense(MATERIALISE, _materialised, work=work_of(shape, MATERIALISE), backend=_served(x, x.no_keys))
    yield Subject(
        COMPOSED,
        lambda p: composed_latent(p.query, p.key, p.value, p.latents, BIAS),
        latent_judge,
        work_of(shape, COMPOSED),
        lambda p: [p.latents.key, p.latents.value],
        "latent",
    )
    for name, peer in rivals.items():
        build = functools.partial(lambda peer, p: peer(p.operands), peer)
        reason = peers.reason_against(name, device, compiles=compiles)
        yield dense(name, build, work=work_of(shape, name), unavailable=reason)


def backend_of(x: Problem) -> str:
    """By name on a GPU: a benchmark must not fall back unnoticed. On a CPU a row names the one that served."""
    return "triton" if x.query.is_cuda else "auto"


def _served(x: Problem, knowledge: Knowledge) -> str | None:
    return explain(x.query, x.key, x.value, knowledge).backend


def _attend(x: Problem, knowledge: Knowledge, *, int8_products: bool = False) -> Call:
    options = {"knowledge_bias": x.bias, "int8_products": int8_products, "backend": backend_of(x)}
    return lambda: rectangular_attention(x.query, x.key, x.value, knowledge, **options)  # type: ignore[call-overload]


def _materialised(p: Problem) -> Call:
    x = p.part
    return _attend(x, dataclasses.replace(x.latents, materialised=True))


def _evidence_subjects(shape: Shape, x: Problem, compiles: bool) -> Iterator[Subject]:
    device = str(x.query.device)
    backend = backend_of(x)
    share = x.part.query.shape[1] / x.query.shape[1]
    dense_judge = functools.cache(lambda: evidence_judge(x, x.dense))
    keys = {"streams": lambda p: [p.dense.key], "layout": "dense keys", "share": share}

    def ours(p: Problem, knowledge: Knowledge, lse: Tensor) -> Call:
        return lambda: evidence(
            p.query, knowledge, lse, knowledge_bias=p.bias, row_weight=p.row_weight, backend=backend
        )

    # The lse is an input: one for all copies.
    yield Subject(
        LATENT,
        lambda p: ours(p, p.latents, x.latent_levels),
        lambda: evidence_judge(x, x.latents),
        work_of(shape, LATENT),
        lambda p: [p.latents.key],
        "latent keys",
        backend,
    )
    yield Subject(
        DENSE,
        lambda p: ours(p.part, p.dense, x.dense_levels),
        dense_judge,
        work_of(shape, DENSE),
        backend=backend,
        **keys,  # type: ignore[arg-type]
    )
    for name, peer in peers.EVIDENCE_PEERS.items():
        build = functools.partial(lambda peer, p: peer(p.operands, x.dense_levels), peer)
        reason = peers.reason_against(name, device, compiles=compiles)
        yield Subject(name, build, dense_judge, work_of(shape, name), unavailable=reason, **keys)  # type: ignore[arg-type]
