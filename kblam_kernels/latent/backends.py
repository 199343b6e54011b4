"""The backends of latent attention, in the order in which "auto" tries them."""

from __future__ import annotations

from kblam_kernels.dispatch import BACKENDS, Backend, Forward, Request, verify_cpu


def _load_triton() -> Forward:
    from kblam_kernels.latent import triton_decode

    return triton_decode.forward


def _load_cpu() -> Forward:
    from kblam_kernels.latent import cpu

    return cpu.forward


def _load_reference() -> Forward:
    from kblam_kernels.latent import reference

    return reference.forward


def _verify_triton(request: Request) -> str | None:
    if request.storage_dtype != request.dtype:
        return f"it does not read {request.storage_dtype} latents under {request.dtype} queries"
    # For the rest Triton asks the same of a call, whatever the layout of its knowledge.
    return next(backend for backend in BACKENDS if backend.name == "triton").verify(request)


LATENT_BACKENDS: tuple[Backend, ...] = (
    Backend("triton", _verify_triton, _load_triton),
    Backend("cpu", verify_cpu, _load_cpu),
    Backend("reference", lambda request: None, _load_reference),
)
