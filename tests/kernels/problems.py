"""Random inputs of every op, each problem able to run itself on any backend and in float64."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from kblam_kernels import DenseKnowledge, LatentKnowledge, evidence, rectangular_attention
from kblam_kernels.attention.interface import call_of
from kblam_kernels.common.op import Op
from kblam_kernels.evidence.call import EvidenceCall
from kblam_kernels.evidence.given import call_of as evidence_call_of
from kblam_kernels.evidence.op import evidence_mass
from kblam_kernels.knowledge import SCALED_DTYPES, dequantise
from kblam_kernels.latent import absorb, quantise
from kblam_kernels.latent.absorption import Absorbed, absorb_query
from kblam_kernels.latent.call import LatentCall

INF = float("inf")
# What gradients are taken of, by the name that `Problem.but` knows it by.
TENSORS = ("query", "key", "value", "knowledge_key", "knowledge_value", "knowledge_query")
PROMPT = ("query", "key", "value", "knowledge_query")


@dataclass(frozen=True)
class Problem:
    """One call of `rectangular_attention`; fields as its arguments."""

    query: Tensor
    key: Tensor
    value: Tensor
    knowledge: Any  # DenseKnowledge or LatentKnowledge
    knowledge_query: Tensor
    knowledge_bias: float | Tensor = 0.0
    prompt_mask: Tensor | None = None
    window: int | None = None
    knowledge_range: Tensor | None = None
    scale: float | None = None
    int8_products: bool = False
    is_alone: bool = False  # no prompt: T = 0

    @property
    def is_latent(self) -> bool:
        return isinstance(self.knowledge, LatentKnowledge)

    @property
    def knowledge_key(self) -> Tensor:
        """Dense keys, or latents."""
        key: Tensor = self.knowledge.key
        return key

    @property
    def knowledge_value(self) -> Tensor:
        """Dense values, or latents."""
        value: Tensor = self.knowledge.value
        return value

    def but(self, **changes: Any) -> Problem:
        """This problem with some fields changed; `knowledge_key` and `knowledge_value` are fields too."""
        inside = {name: changes.pop(f"knowledge_{name}") for name in ("key", "value") if f"knowledge_{name}" in changes}
        if inside:
            changes["knowledge"] = dataclasses.replace(changes.get("knowledge", self.knowledge), **inside)
        return dataclasses.replace(self, **changes)

    def to(self, dtype: torch.dtype, storage: torch.dtype | None = None) -> Problem:
        """Every tensor of the computation in another dtype; latents in `storage` where one is given."""
        return self.but(
            knowledge=_latents_to(self.knowledge, dtype, storage)
            if self.is_latent
            else DenseKnowledge(self.knowledge.key.to(dtype), self.knowledge.value.to(dtype)),
            **{name: getattr(self, name).to(dtype) for name in PROMPT},
        )

    def on(self, device: str) -> Problem:
        """Every tensor on another device, in its strides."""
        knowledge = _moved(self.knowledge, device)
        if self.is_latent:
            projection = self.knowledge.projection
            knowledge["projection"] = dataclasses.replace(projection, **_moved(projection, device))
        return self.but(**_moved(self, device), knowledge=type(self.knowledge)(**knowledge))

    def rows(self, rows: slice) -> Problem:
        """Some rows of the batch."""
        changes: dict[str, Any] = {name: getattr(self, name)[rows] for name in PROMPT}
        for name in ("prompt_mask", "knowledge_range"):
            if getattr(self, name) is not None:
                changes[name] = getattr(self, name)[rows]
        if isinstance(self.knowledge_bias, Tensor) and self.knowledge_bias.dim() == 2:
            changes["knowledge_bias"] = self.knowledge_bias[rows]
        if not self.is_latent and not self.knowledge.is_shared:
            changes["knowledge"] = DenseKnowledge(self.knowledge.key[rows], self.knowledge.value[rows])
        return self.but(**changes)

    def arguments(self, *, dense: bool = False) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Of `rectangular_attention`, on the knowledge or on the dense knowledge that latents stand for."""
        knowledge = self.knowledge.to_dense() if dense and self.is_latent else self.knowledge
        options = ("scale", "knowledge_bias", "prompt_mask", "window", "knowledge_range", "int8_products")
        return (self.query, self.key, self.value, knowledge, self.knowledge_query), {
            name: getattr(self, name) for name in options
        }

    def run(self, backend: str = "reference", *, dense: bool = False) -> tuple[Tensor, Tensor]:
        """(output, lse)."""
        tensors, options = self.arguments(dense=dense)
        if self.is_alone:
            op, call = self.call(dense=dense)
            output, lse = op(call, op.choose(call, backend))
            return output, lse
        return rectangular_attention(*tensors, **options, return_lse=True, backend=backend)

    def exact(self) -> tuple[Tensor, Tensor]:
        """(output, lse) of the dense specification in float64, on exactly these (rounded) numbers."""
        return self.to(torch.float64).run(dense=True)

    def call(self, *, dense: bool = False) -> tuple[Op[Any], Any]:
        """The op, and the call as the op takes it."""
        tensors, options = self.arguments(dense=dense)
        query, key, value, knowledge, knowledge_query = tensors
        return call_of(query, key, value, knowledge, knowledge_query, self.is_alone, **options)

    @property
    def differentiable(self) -> tuple[str, ...]:
        """What gradients are taken of, by the name that `but` knows it by: TENSORS, and the bias if it is a tensor."""
        tensors = PROMPT if self.is_latent else TENSORS
        return (*tensors, "knowledge_bias") if isinstance(self.knowledge_bias, Tensor) else tensors

    def leaves(self) -> Problem:
        """Fresh leaves that require gradients."""
        leaves = {name: getattr(self, name).detach().clone().requires_grad_() for name in self.differentiable}
        return self.but(**leaves)

    def gradients(self, seed: int = 0, backend: str = "reference") -> tuple[Tensor, ...]:
        """Of a random function of output and lse, in the order of `differentiable`."""
        leaves = self.leaves()
        loss = self.loss(*leaves.run(backend), seed)
        return torch.autograd.grad(loss, [getattr(leaves, name) for name in self.differentiable])

    @staticmethod
    def loss(output: Tensor, lse: Tensor, seed: int = 0) -> Tensor:
        """A random function of both results."""
        draw = torch.Generator().manual_seed(seed)
        # Drawn in float64 and rounded, so that every dtype differentiates the same function.
        for_output, for_lse = (torch.randn(t.shape, generator=draw, dtype=torch.float64) for t in (output, lse))
        return (output * for_output.to(output.dtype)).sum() + (lse * for_lse.to(lse.dtype))[lse.isfinite()].sum()


@dataclass(frozen=True)
class EvidenceProblem:
    """One call of `evidence` after an attention: its `lse` is an input, one for all backends.

    Args:
        row_weight: (B, Hq, N), float32 (float64 of a float64 attention).
    """

    attention: Problem
    lse: Tensor
    row_weight: Tensor

    @property
    def query(self) -> Tensor:
        """Says dtype and device."""
        return self.attention.knowledge_query

    @property
    def is_latent(self) -> bool:
        return self.attention.is_latent

    def but(self, **changes: Any) -> EvidenceProblem:
        """This problem with fields of the attention changed."""
        return dataclasses.replace(self, attention=self.attention.but(**changes))

    def to(self, dtype: torch.dtype, storage: torch.dtype | None = None) -> EvidenceProblem:
        """In another dtype; the lse and the weights stay at least float32."""
        sums = torch.promote_types(dtype, torch.float32)
        return EvidenceProblem(self.attention.to(dtype, storage), self.lse.to(sums), self.row_weight.to(sums))

    def on(self, device: str) -> EvidenceProblem:
        """Every tensor on another device."""
        return EvidenceProblem(self.attention.on(device), self.lse.to(device), self.row_weight.to(device))

    def rows(self, rows: slice) -> EvidenceProblem:
        """Some rows of the batch."""
        return EvidenceProblem(self.attention.rows(rows), self.lse[rows], self.row_weight[rows])

    def run(self, backend: str = "reference") -> tuple[Tensor]:
        """(mass,)."""
        p = self.attention
        return (
            evidence(
                p.knowledge_query,
                p.knowledge,
                self.lse,
                scale=p.scale,
                knowledge_bias=p.knowledge_bias,
                knowledge_range=p.knowledge_range,
                row_weight=self.row_weight,
                backend=backend,
            ),
        )

    def exact(self) -> tuple[Tensor]:
        """(mass,) by the specification in float64, on exactly these (rounded) numbers."""
        return self.to(torch.float64).run()

    def call(self) -> tuple[Op[Any], EvidenceCall]:
        """The op, and the call as the op takes it."""
        p = self.attention
        call = evidence_call_of(
            p.knowledge_query, p.knowledge, self.lse, self.row_weight, p.scale, p.knowledge_bias, p.knowledge_range
        )
        return evidence_mass, call

    def leaves(self) -> EvidenceProblem:
        """Fresh leaves that require gradients; of dense knowledge."""
        names = ("knowledge_query", "knowledge_key", *self.attention.differentiable[len(TENSORS) :])
        leaves = {name: getattr(self.attention, name).detach().clone().requires_grad_() for name in names}
        return dataclasses.replace(self.but(**leaves), lse=self.lse.detach().clone().requires_grad_())


def absorbed_of(call: LatentCall) -> Absorbed:
    """The knowledge queries of a call as they meet latents."""
    return absorb_query(call.knowledge_query, call.key_weight, call.key_bias)


def make(
    B: int = 2,
    H: int = 4,
    G: int = 2,
    N: int = 5,
    T: int = 9,
    M: int = 7,
    D: int = 16,
    *,
    shared: bool = True,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
    **options: Any,
) -> Problem:
    """B rows, H query heads, G key heads, N new of T prompt tokens, M knowledge tokens of width D."""
    normal = _drawn(seed)
    knowledge = (H, M, D) if shared else (B, H, M, D)
    query, key, value = normal(B, H, N, D), normal(B, G, T, D), normal(B, G, T, D)
    dense = DenseKnowledge(normal(*knowledge), normal(*knowledge))
    return Problem(query, key, value, dense, normal(B, H, N, D), **options).to(dtype)


def make_latent(
    B: int = 2,
    H: int = 4,
    G: int = 2,
    N: int = 3,
    T: int = 9,
    M: int = 7,
    D: int = 16,
    P: int = 24,
    *,
    dtype: torch.dtype = torch.float64,
    storage: torch.dtype | None = None,
    seed: int = 0,
    **options: Any,
) -> Problem:
    """The same with M latents of width P for heads of width D."""
    normal = _drawn(seed)
    outputs = 2 * H * D  # two slots, of which the second is used
    absorbed = absorb(
        normal(outputs, P) * P**-0.5,
        normal(outputs),
        normal(outputs, P) * P**-0.5,
        normal(outputs),
        num_slots=2,
        num_heads=H,
        head_dim=D,
    )
    key = normal(M, P)
    knowledge = LatentKnowledge(key, normal(M, P), absorbed.key_norm(key), absorbed.slots[1])
    problem = Problem(
        normal(B, H, N, D), normal(B, G, T, D), normal(B, G, T, D), knowledge, normal(B, H, N, D), **options
    )
    return problem if (dtype, storage) == (torch.float64, None) else problem.to(dtype, storage)


def evidence_of(problem: Problem, seed: int = 1) -> EvidenceProblem:
    """Masses of what the specification attended to, with random weights."""
    _, lse = problem.run()
    weight = torch.rand(lse.shape, generator=torch.Generator().manual_seed(seed))
    return EvidenceProblem(problem, lse, weight.to(lse.dtype))


class Exact(NamedTuple):
    """Attention by PyTorch alone: output (B, H, N, D), lse (B, H, N), weights (B, H, N, M + T), knowledge first."""

    output: Tensor
    lse: Tensor
    weights: Tensor


def visible_columns(problem: Problem) -> Tensor:
    """bool (B, N, T), cell by cell from the words of the docstring."""
    B, _, N, _ = problem.query.shape
    T = problem.key.shape[2]
    visible = torch.zeros(B, N, T, dtype=torch.bool)
    kept = [[True] * T] * B if problem.prompt_mask is None else problem.prompt_mask.tolist()
    for b in range(B):
        for n in range(N):
            for t in range(T):
                causal = t <= T - N + n
                near = problem.window is None or t > T - N + n - problem.window
                visible[b, n, t] = causal and near and kept[b][t]
    return visible


def through_sdpa(problem: Problem) -> Exact:
    """All by one call of PyTorch's attention on twice as wide heads, in float64.

    [q, r] against prompt keys [k, 0] and knowledge keys [0, kappa] gives the scores of both blocks; bias, ranges and
    masks become its float mask; values [v, 1] give the weights too. Rows that see no prompt column are 0; where
    there is no prompt, those that see nothing.
    """
    problem = problem.to(torch.float64)
    knowledge = problem.knowledge.to_dense() if problem.is_latent else problem.knowledge
    B, H, N, D = problem.query.shape
    groups, T, M = H // problem.key.shape[1], problem.key.shape[2], knowledge.num_tokens
    key, value = (t.repeat_interleave(groups, dim=1) for t in (problem.key, problem.value))
    kappa, nu = (t.expand(B, H, M, D) for t in (knowledge.key, knowledge.value))
    visible = visible_columns(problem)
    prompt = torch.zeros(visible.shape, dtype=torch.float64).masked_fill(~visible, -INF)
    bias = torch.as_tensor(problem.knowledge_bias, dtype=torch.float64).expand(B, M)
    if problem.knowledge_range is not None:
        column = torch.arange(M)
        start, end = problem.knowledge_range[:, :1], problem.knowledge_range[:, 1:]
        bias = bias.masked_fill((column < start) | (column >= end), -INF)
    mask = torch.cat([bias[:, None].expand(B, N, M), prompt], -1)[:, None]
    scale = D**-0.5 if problem.scale is None else problem.scale
    queries = torch.cat([problem.query, problem.knowledge_query], -1)
    keys = torch.cat([F.pad(kappa, (D, 0)), F.pad(key, (0, D))], 2)
    units = torch.eye(M + T, dtype=torch.float64).expand(B, H, M + T, M + T)
    values = torch.cat([torch.cat([nu, value], 2), units], -1)
    attended = F.scaled_dot_product_attention(queries, keys, values, mask, scale=scale)
    sees = (mask[:, 0] > -INF).any(-1)[:, None] if problem.is_alone else visible.any(-1)[:, None]
    attended = torch.where(sees[..., None], attended, 0.0)
    lse = (queries @ keys.mT * scale + mask).logsumexp(-1).where(sees, -INF)
    return Exact(attended[..., :D], lse, attended[..., D:])


def _drawn(seed: int) -> Any:
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    return normal


def _latents_to(k: LatentKnowledge, dtype: torch.dtype, storage: torch.dtype | None) -> LatentKnowledge:
    p = k.projection
    projection = dataclasses.replace(p, **{f.name: getattr(p, f.name).to(dtype) for f in dataclasses.fields(p)})
    norm = k.norm.to(torch.float64 if dtype == torch.float64 else torch.float32)
    latents = (dequantise(k.key, k.key_scale, torch.float64), dequantise(k.value, k.value_scale, torch.float64))
    if storage in SCALED_DTYPES:
        (key, key_scale), (value, value_scale) = (quantise(latent, storage) for latent in latents)
        return LatentKnowledge(key, value, norm, projection, key_scale, value_scale)
    key, value = (latent.to(storage or dtype) for latent in latents)
    return LatentKnowledge(key, value, norm, projection)


def _moved(owner: Any, device: str) -> dict[str, Tensor]:
    fields = {f.name: getattr(owner, f.name) for f in dataclasses.fields(owner)}
    return {name: _copy(value, device) for name, value in fields.items() if isinstance(value, Tensor)}


def _copy(tensor: Tensor, device: str) -> Tensor:
    # .to() makes an expanded or gapped tensor dense.
    whole = torch.as_strided(tensor, (tensor.untyped_storage().nbytes() // tensor.element_size(),), (1,), 0)
    return torch.as_strided(whole.to(device), tensor.shape, tensor.stride(), tensor.storage_offset())
