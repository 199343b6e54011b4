"""Layouts in which knowledge tokens reach the kernels."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from kblam_kernels.errors import expect, refuse, switch, tensors
from kblam_kernels.precision import exactly

# Storage of latents that needs a scale for each triple; the others hold a latent as it is.
SCALED_DTYPES = (torch.int8, torch.float8_e4m3fn)
# Storage that fits a projection of any dtype: the store on disk holds float16 embeddings.
HALF_DTYPES = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class DenseKnowledge:
    """Keys and values of M knowledge tokens, one attention head for each *query* head.

    Args:
        key: (Hq, M, D) shared by every batch row, or (B, Hq, M, D). Never rotated: knowledge has no position.
        value: the shape, dtype and device of `key`.

    M may be 0: attention is then that of the prompt alone. Any strides with a contiguous last dimension.

    Raises:
        UnsupportedInputError: if the two do not match, or are not of rank 3 or 4.
    """

    key: Tensor
    value: Tensor

    def __post_init__(self) -> None:
        tensors(key=self.key)
        if self.key.dim() not in (3, 4):
            refuse(
                "knowledge key must be (Hq, M, D), shared by the batch, or (B, Hq, M, D); "
                f"got shape {tuple(self.key.shape)}"
            )
        axes = "Hq, M, D" if self.is_shared else "B, Hq, M, D"
        expect("knowledge value", self.value, axes, self.key.shape, self.key.device, self.key.dtype)

    @property
    def is_shared(self) -> bool:
        """Whether all batch rows see one list of knowledge tokens."""
        return self.key.dim() == 3

    @property
    def num_tokens(self) -> int:
        """M."""
        return self.key.shape[-2]

    @property
    def num_heads(self) -> int:
        """Hq."""
        return self.key.shape[-3]

    @property
    def head_dim(self) -> int:
        """D."""
        return self.key.shape[-1]

    @classmethod
    def empty(cls, num_heads: int, head_dim: int, *, dtype: torch.dtype, device: torch.device) -> DenseKnowledge:
        """Knowledge of no token (M = 0)."""
        nothing = torch.empty(num_heads, 0, head_dim, dtype=dtype, device=device)
        return cls(nothing, nothing)


@dataclass(frozen=True)
class LatentProjection:
    """How one layer reads latents: key `norm * (key_weight e + key_bias)`, value `value_weight f + value_bias`.

    Args:
        key_weight, value_weight: (Hq, D, P), each at least 1; the key's centred (`latent.absorb` does it).
        key_bias, value_bias: (Hq, D).

    All of one dtype, the model's, and on one device.

    Raises:
        UnsupportedInputError: if shapes, dtypes or devices do not fit.
    """

    key_weight: Tensor
    key_bias: Tensor
    value_weight: Tensor
    value_bias: Tensor

    def __post_init__(self) -> None:
        weight = self.key_weight
        tensors(key_weight=weight)
        if weight.dim() != 3 or 0 in weight.shape:
            refuse(f"key_weight must be (Hq, D, P), each at least 1; got shape {tuple(weight.shape)}")
        expect("value_weight", self.value_weight, "Hq, D, P", weight.shape, weight.device, weight.dtype)
        for name in ("key_bias", "value_bias"):
            expect(name, getattr(self, name), "Hq, D", weight.shape[:2], weight.device, weight.dtype)

    @property
    def num_heads(self) -> int:
        """Hq."""
        return self.key_weight.shape[0]

    @property
    def head_dim(self) -> int:
        """D."""
        return self.key_weight.shape[1]

    @property
    def width(self) -> int:
        """P."""
        return self.key_weight.shape[2]


# Keys and values that are made from latents at a time: 64 K tokens of Llama-3-8B's heads in 16 bits.
PIECE_BYTES = 2**30


def dequantise(latents: Tensor, scale: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The numbers of stored latents (M, P), in `dtype`; `scale` is float32 (M,) or None, as in `LatentKnowledge`."""
    if scale is None:
        return latents.to(dtype)
    working = torch.float64 if dtype == torch.float64 else torch.float32
    return (latents.to(working) * scale[:, None].to(working)).to(dtype)


@dataclass(frozen=True)
class LatentKnowledge:
    """M knowledge tokens as encoder latents: one copy for all heads and, with another projection, for all layers.

    Args:
        key, value: (M, P), shared by the batch; a contiguous last dimension. One dtype for both: the projection's,
            float16 or bfloat16 whatever the projection's, or int8 or float8_e4m3fn with a scale for each triple.
        norm: (M,) float32 (float64 for a float64 projection), the LayerNorm scalar of each key as stored.
        projection: how the current layer reads them.
        key_scale, value_scale: float32 (M,), so that a triple's latents are `key[m] * key_scale[m]` and
            `value[m] * value_scale[m]`, none below 0; for int8 and float8_e4m3fn, and only for them
            (`kblam_kernels.latent.quantise` makes them).
        materialised: attention reads them as keys and values, which it makes from the latents a piece at a time and
            frees again: for many new queries. Evidence too.

    M may be 0. To change a triple, write its row of each tensor in place.

    Raises:
        UnsupportedInputError: if shapes, dtypes or devices do not fit, or `materialised` is neither True nor False.
    """

    key: Tensor
    value: Tensor
    norm: Tensor
    projection: LatentProjection
    key_scale: Tensor | None = None
    value_scale: Tensor | None = None
    materialised: bool = False

    def __post_init__(self) -> None:
        tensors(key=self.key, value=self.value)
        if not isinstance(self.projection, LatentProjection):
            refuse(f"projection must be a LatentProjection; got {type(self.projection).__name__}")
        key, value, norm, weight = self.key, self.value, self.norm, self.projection.key_weight
        if key.dim() != 2 or key.shape != value.shape:
            refuse(f"latent key and value must both be (M, P); got {tuple(key.shape)} and {tuple(value.shape)}")
        if key.shape[1] != self.projection.width:
            refuse(f"latents are {key.shape[1]} wide, the projection takes P = {self.projection.width}")
        if key.dtype != value.dtype or key.dtype not in (weight.dtype, *HALF_DTYPES, *SCALED_DTYPES):
            refuse(
                f"latent key and value must both be of the projection's dtype {weight.dtype}, float16, bfloat16, int8 "
                f"or float8_e4m3fn; got {key.dtype} and {value.dtype}"
            )
        expected = torch.float64 if weight.dtype == torch.float64 else torch.float32
        if not key.device == value.device == weight.device:
            refuse(
                "latent key, value and projection must be on one device; got "
                f"{key.device}, {value.device}, {weight.device}"
            )
        expect("norm", norm, "M", key.shape[:1], key.device, expected)
        self._check_scale("key_scale", self.key_scale)
        self._check_scale("value_scale", self.value_scale)
        switch("materialised", self.materialised)

    def _check_scale(self, name: str, scale: Tensor | None) -> None:
        if self.key.dtype not in SCALED_DTYPES:
            if scale is not None:
                refuse(f"{name} is for int8 and float8_e4m3fn latents; these are {self.key.dtype}")
            return
        if scale is None:
            refuse(
                f"{self.key.dtype} latents need {name}, float32 (M={self.num_tokens},); "
                "kblam_kernels.latent.quantise makes it"
            )
        expect(name, scale, "M", self.key.shape[:1], self.key.device, torch.float32)

    @property
    def num_tokens(self) -> int:
        """M."""
        return self.key.shape[0]

    @property
    def num_heads(self) -> int:
        """Hq."""
        return self.projection.num_heads

    @property
    def head_dim(self) -> int:
        """D."""
        return self.projection.head_dim

    def part(self, tokens: slice) -> LatentKnowledge:
        """Some of the tokens, as views."""
        names = ("key", "value", "norm", "key_scale", "value_scale")
        parts: dict[str, Any] = {n: None if (t := getattr(self, n)) is None else t[tokens] for n in names}
        return replace(self, **parts)

    def pieces(self) -> Iterator[tuple[slice, LatentKnowledge]]:
        """Slices of tokens whose keys and values take at most PIECE_BYTES, and the tokens; at least one slice."""
        p = self.projection
        size = max(PIECE_BYTES // (2 * p.num_heads * p.head_dim * p.key_weight.element_size()), 1)
        for start in range(0, max(self.num_tokens, 1), size):
            tokens = slice(start, min(start + size, self.num_tokens))
            yield tokens, self.part(tokens)

    def to_dense(self) -> DenseKnowledge:
        """The keys and values that this layer sees, materialised: (Hq, M, D) in the projection's dtype."""
        p = self.projection
        dtype, heads = p.key_weight.dtype, (p.num_heads, p.head_dim)
        # A key's norm scales its latent, and its bias as one more column, filled up to whole vectors of a tensor core.
        scale = self.norm if self.key_scale is None else self.norm * self.key_scale
        more = -(p.width + 1) % 8
        with exactly(self.key.device):
            rows = torch.cat([dequantise(self.key, scale, dtype), F.pad(self.norm[:, None].to(dtype), (0, more))], 1)
            weight = torch.cat([p.key_weight, F.pad(p.key_bias[..., None], (0, more))], 2)
            key = rows @ weight.flatten(0, 1).T
            value = F.linear(
                dequantise(self.value, self.value_scale, dtype), p.value_weight.flatten(0, 1), p.value_bias.flatten()
            )
        # One product each writes the heads inside a token; kernels read the tokens of a head one behind the other.
        return DenseKnowledge(*(columns.unflatten(1, heads).transpose(0, 1).contiguous() for columns in (key, value)))


Knowledge = DenseKnowledge | LatentKnowledge


def check_layout(knowledge: object) -> None:
    """Refuses what is neither of the two layouts."""
    if not isinstance(knowledge, (DenseKnowledge, LatentKnowledge)):
        refuse(f"knowledge must be DenseKnowledge(key, value) or LatentKnowledge; got {type(knowledge).__name__}")
