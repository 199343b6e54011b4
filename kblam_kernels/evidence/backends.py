"""The backends of `evidence`, in the order in which "auto" tries them; each serves both layouts of knowledge."""

from __future__ import annotations

from kblam_kernels.dispatch import BACKENDS, Backend, Forward, verify_cpu


def _load_triton() -> Forward:
    from kblam_kernels.evidence import triton_mass

    return triton_mass.mass


def _load_cpu() -> Forward:
    from kblam_kernels.evidence import cpu

    return cpu.mass


def _load_reference() -> Forward:
    from kblam_kernels.evidence import reference

    return reference.mass


# Triton asks the same of a call as attention does.
_verify_triton = next(backend for backend in BACKENDS if backend.name == "triton").verify

EVIDENCE_BACKENDS: tuple[Backend, ...] = (
    Backend("triton", _verify_triton, _load_triton),
    Backend("cpu", verify_cpu, _load_cpu),
    Backend("reference", lambda request: None, _load_reference),
)
