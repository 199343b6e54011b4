"""Attention to latents as an op: its backends. It has no gradient."""

from __future__ import annotations

from torch import Tensor

from kblam_kernels.common import dispatch
from kblam_kernels.common.op import Op
from kblam_kernels.common.output import empty_output
from kblam_kernels.latent.call import LatentCall

Tensors = tuple[Tensor, ...]


class LatentReference(dispatch.Reference[LatentCall]):
    def forward(self, call: LatentCall) -> Tensors:
        from kblam_kernels.latent import absorption, reference

        return absorption.projected(call, reference.mix)


class LatentCpu(dispatch.Cpu[LatentCall]):
    def forward(self, call: LatentCall) -> Tensors:
        from kblam_kernels.latent import cpu

        return cpu.forward(call)

    def is_one_op(self, call: LatentCall) -> bool:
        from kblam_kernels.latent import cpu

        return cpu.is_fused(call)


class LatentTriton(dispatch.Triton[LatentCall]):
    def forward(self, call: LatentCall) -> Tensors:
        from kblam_kernels.latent import absorption, triton_decode

        return absorption.projected(call, triton_decode.mix)


LATENT_BACKENDS = (LatentTriton(), LatentCpu(), LatentReference())

latent_attention: Op[LatentCall] = Op(
    "latent_attention",
    LatentCall,
    LATENT_BACKENDS,
    results=("output", "lse"),
    empty=lambda call: empty_output(call.query),
)
