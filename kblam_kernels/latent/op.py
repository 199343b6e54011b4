"""Attention to latents as an op: its backends. It has no gradient."""

from __future__ import annotations

from kblam_kernels.common import dispatch
from kblam_kernels.common.op import Op
from kblam_kernels.latent.call import LatentCall

LATENT_BACKENDS: tuple[dispatch.Backend[LatentCall], ...] = (
    dispatch.Triton("kblam_kernels.latent.triton_decode"),
    dispatch.Cpu("kblam_kernels.latent.cpu"),
    dispatch.Reference("kblam_kernels.latent.reference"),
)

latent_attention = Op("latent_attention", LatentCall, LATENT_BACKENDS)
