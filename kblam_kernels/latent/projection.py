"""Absorption: an adapter's linear projections move from the M knowledge tokens to the N queries.

With centred weights Wc a knowledge key is `rho * (Wc e + bc)`, with one scalar rho a token. The folder's README has the
derivation; the idea is weight absorption, DeepSeek-V2, arXiv 2405.04434, section 2.1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kblam_kernels.common.checks import COMPUTED
from kblam_kernels.common.columns import chunks
from kblam_kernels.errors import expect, number, refuse, tensors, whole
from kblam_kernels.knowledge import SCALED_DTYPES, LatentProjection, dequantise
from kblam_kernels.precision import exactly

KEY_NORM_EPS = 1e-5
# Latents normalised at a time: bounds the scratch memory of a large knowledge base.
ROWS = 16384


@dataclass(frozen=True)
class KeyNorm:
    """rho of latents: the scalar that turns a centred projection into its LayerNorm.

    Args:
        factor: float64 (P, P + 1) and
        offset: float64 (P + 1,), with variance(e) = |e @ factor + offset| ** 2: a sum of squares, so rounding never
            makes it negative, as it could make the Gram form e'Ge + 2g'e + g0.
        eps: of the LayerNorm.
    """

    factor: Tensor
    offset: Tensor
    eps: float = KEY_NORM_EPS

    def __call__(
        self, latents: Tensor, scale: Tensor | None = None, *, accumulate: torch.dtype | None = None
    ) -> Tensor:
        """rho of each stored latent. Rows are independent, so one changed row can be computed alone.

        Args:
            latents: (M, P), of any dtype that `LatentKnowledge` stores, on the device of the adapter.
            scale: float32 (M,), of int8 and float8_e4m3fn latents, and only of them.
            accumulate: dtype of the products; None is float32, float64 for float64 latents.

        Returns:
            (M,) float32; float64 for float64 latents.

        Raises:
            UnsupportedInputError: a shape, dtype or device that does not fit, or latents without the scale that they
                need; the message names it.
        """
        self._check(latents, scale, accumulate)
        result = torch.float64 if latents.dtype == torch.float64 else torch.float32
        working = accumulate or result
        factor, offset = self.factor.to(working), self.offset.to(working)
        norm = torch.empty(latents.shape[0], dtype=result, device=latents.device)
        for rows in chunks(latents.shape[0], ROWS):
            stored = dequantise(latents[rows], None if scale is None else scale[rows], working)
            with exactly(stored.device):
                root = torch.addmm(offset, stored, factor)
            norm[rows] = root.square().sum(-1).add(self.eps).rsqrt()
        return norm

    def _check(self, latents: Tensor, scale: Tensor | None, accumulate: torch.dtype | None) -> None:
        tensors(latents=latents)
        P, device = len(self.factor), self.factor.device
        if latents.dim() != 2 or latents.shape[1] != P or latents.device != device:
            refuse(
                f"latents must be (M, P={P}) on {device}, as the adapter; "
                f"got {tuple(latents.shape)} on {latents.device}"
            )
        is_scaled = latents.dtype in SCALED_DTYPES
        if not is_scaled and latents.dtype not in COMPUTED:
            refuse(f"latents must be floating point, int8 or float8_e4m3fn; got {latents.dtype}")
        if is_scaled != (scale is not None):
            why = "need their scale, the second result of quantise" if is_scaled else "have no scale"
            refuse(f"{latents.dtype} latents {why}; got scale={'None' if scale is None else type(scale).__name__}")
        if scale is not None:
            expect("scale", scale, "M", latents.shape[:1], device, torch.float32)
        if accumulate not in (None, torch.float32, torch.float64):
            refuse(f"accumulate must be torch.float32, torch.float64 or None; got {accumulate}")


@dataclass(frozen=True)
class AbsorbedAdapter:
    """Both projections of an adapter, taken apart: one `LatentProjection` for each slot, one `KeyNorm` for all.

    Args:
        key_norm: of the whole key vector; a slot that no layer reads counts in it.
        slots: S projections.
    """

    key_norm: KeyNorm
    slots: tuple[LatentProjection, ...]


def absorb(
    key_weight: Tensor,
    key_bias: Tensor | None,
    value_weight: Tensor,
    value_bias: Tensor | None,
    *,
    num_slots: int,
    num_heads: int,
    head_dim: int,
    dtype: torch.dtype | None = None,
    eps: float = KEY_NORM_EPS,
) -> AbsorbedAdapter:
    """Takes the last linear layers of an adapter's key and value projector apart, in float64.

    Keys are `LayerNorm(key_weight @ e + key_bias)` over all outputs, values `value_weight @ f + value_bias`. For an MLP
    adapter these are the last layers, and e and f the last hidden activations.

    Args:
        key_weight, value_weight: (S * Hq * D, P), slot-major, then head, then dim.
        key_bias, value_bias: (S * Hq * D,) or None.
        num_slots, num_heads, head_dim: S, Hq, D.
        dtype: of the projections, the model's: float32, float64, float16 or bfloat16; None keeps that of the weights.
        eps: of the key LayerNorm, not below 0.

    Weights and biases are of these dtypes too, and on one device.

    Raises:
        UnsupportedInputError: if a weight or bias does not have S * Hq * D rows, the two widths P differ, a number,
            dtype or device does not fit, or a weight or bias holds NaN or infinity; the message names it.
    """
    num_slots, num_heads = whole("num_slots", num_slots), whole("num_heads", num_heads)
    head_dim = whole("head_dim", head_dim)
    eps = number("eps", eps)
    if eps < 0:
        refuse(f"eps must not be below 0; got {eps}")
    if dtype is not None and dtype not in COMPUTED:
        refuse(f"dtype must be torch.float32, float64, float16 or bfloat16, or None; got {dtype}")
    outputs = num_slots * num_heads * head_dim
    key_bias = _bias("key_bias", key_bias, "key_weight", key_weight, outputs)
    value_bias = _bias("value_bias", value_bias, "value_weight", value_weight, outputs)
    if key_weight.shape[1] != value_weight.shape[1]:
        refuse(
            f"key_weight and value_weight must take one latent width; got {key_weight.shape[1]} and "
            f"{value_weight.shape[1]}"
        )
    given = {"key_weight": key_weight, "key_bias": key_bias, "value_weight": value_weight, "value_bias": value_bias}
    for name, tensor in given.items():
        if tensor.device != key_weight.device:
            refuse(f"{name} must be on {key_weight.device}, as key_weight; got {tensor.device}")
        if not tensor.is_meta and not tensor.isfinite().all():
            refuse(f"{name} holds NaN or infinity; check the adapter")
    dtype = dtype or key_weight.dtype
    heads = (num_heads, head_dim)
    # One float64 slot at a time: the whole adapter in float64 could outweigh the model's layer.
    mean = torch.cat([key_weight.mean(0, dtype=torch.float64), key_bias.mean(0, dtype=torch.float64)[None]])
    gram = torch.zeros(mean.shape[0], mean.shape[0], dtype=torch.float64, device=mean.device)
    slots = []
    for slot in range(num_slots):
        rows = slice(slot * outputs // num_slots, (slot + 1) * outputs // num_slots)
        # Float64 first: under autocast half precision of another kind than its own cannot be put together.
        centred = torch.cat([key_weight[rows].double(), key_bias[rows, None].double()], dim=1) - mean
        gram += centred.T @ centred
        slots.append(
            LatentProjection(
                key_weight=centred[:, :-1].to(dtype).unflatten(0, heads),
                key_bias=centred[:, -1].to(dtype).unflatten(0, heads),
                value_weight=value_weight[rows].to(dtype).unflatten(0, heads),
                value_bias=value_bias[rows].to(dtype).unflatten(0, heads),
            )
        )
    # Its square root in the sense of root @ root.T = gram; Cholesky would refuse a Gram matrix that lacks full rank.
    eigenvalues, eigenvectors = torch.linalg.eigh(gram / outputs)
    root = eigenvectors * eigenvalues.clamp_min(0).sqrt()
    return AbsorbedAdapter(KeyNorm(root[:-1].contiguous(), root[-1].contiguous(), eps), tuple(slots))


def narrowed(weight: Tensor) -> tuple[Tensor, Tensor]:
    """A projection (O, P) of latents that are wider than its outputs, O < P, as one of latents of O numbers.

    Exact: only the part of a latent that the projection ignores is left out. The narrow latents are `e @ basis`.

    Returns:
        The narrow weight (O, O) and the basis (P, O), of orthonormal columns: `weight = narrow @ basis.T`; float64.

    Raises:
        UnsupportedInputError: a weight that is no floating-point matrix.
    """
    tensors(weight=weight)
    if weight.dim() != 2 or not weight.dtype.is_floating_point:
        refuse(f"weight must be a floating-point tensor (O, P); got {weight.dtype} {tuple(weight.shape)}")
    basis, upper = torch.linalg.qr(weight.double().T)
    return upper.T, basis


def _bias(name: str, bias: Tensor | None, weight_name: str, weight: Tensor, outputs: int) -> Tensor:
    """Checks a projection and returns its bias, zeros if there is none."""
    tensors(**{weight_name: weight})
    if weight.dim() != 2 or weight.shape[0] != outputs or weight.dtype not in COMPUTED:
        refuse(
            f"{weight_name} must be (slots * heads * head_dim = {outputs}, P), of floating-point numbers; "
            f"got {weight.dtype} {tuple(weight.shape)}"
        )
    if bias is None:
        return weight.new_zeros(outputs)
    tensors(**{name: bias})
    if tuple(bias.shape) != (outputs,) or bias.dtype not in COMPUTED:
        refuse(
            f"{name} must be ({outputs},) to fit {weight_name}, of floating-point numbers; "
            f"got {bias.dtype} {tuple(bias.shape)}"
        )
    return bias
