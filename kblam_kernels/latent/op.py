"""Attention to latents as an op: its backends."""

from __future__ import annotations

from typing import Any

from kblam_kernels.common import dispatch
from kblam_kernels.common.op import Op
from kblam_kernels.dense.op import dense_attention
from kblam_kernels.latent.call import LatentCall


class _ByPieces(dispatch.Backend[LatentCall]):
    """A backend that reads latents itself, or as the keys and values that the same backend of the dense op reads."""

    def forward(self, call: LatentCall) -> tuple[Any, ...]:
        if not call.materialised:
            return super().forward(call)
        from kblam_kernels.latent import pieces

        return pieces.forward(call, dense_attention.named(self.name))

    def is_one_op(self, call: LatentCall) -> bool:
        return not call.materialised and super().is_one_op(call)


class LatentTriton(_ByPieces, dispatch.Triton[LatentCall]):
    """Split decode."""


class LatentCpu(_ByPieces, dispatch.Cpu[LatentCall]):
    """The C++ kernels."""


class LatentReference(_ByPieces, dispatch.Reference[LatentCall]):
    """Plain PyTorch."""


latent_attention = Op(
    "latent_attention",
    LatentCall,
    (
        LatentTriton("kblam_kernels.latent.triton_decode"),
        LatentCpu("kblam_kernels.latent.cpu"),
        LatentReference("kblam_kernels.latent.reference"),
    ),
)
