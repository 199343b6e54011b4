"""The backends of latent attention, in the order in which "auto" tries them."""

from __future__ import annotations

from kblam_kernels.dispatch import BACKENDS, Backend, Forward, verify_cpu


def _load_triton() -> Forward:
    from kblam_kernels.latent import triton_decode

    return triton_decode.forward


def _load_cpu() -> Forward:
    from kblam_kernels.latent import cpu

    return cpu.forward


def _load_reference() -> Forward:
    from kblam_kernels.latent import reference

    return reference.forward


# Triton asks the same of a call, whatever the layout of its knowledge; it reads latents of every storage dtype.
_verify_triton = next(backend for backend in BACKENDS if backend.name == "triton").verify

LATENT_BACKENDS: tuple[Backend, ...] = (
    Backend("triton", _verify_triton, _load_triton),
    Backend("cpu", verify_cpu, _load_cpu),
    Backend("reference", lambda request: None, _load_reference),
)
