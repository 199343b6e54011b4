"""The backends of the scores that `prune` ranks by, in the order in which "auto" tries them."""

from __future__ import annotations

from kblam_kernels.dispatch import BACKENDS, Backend, Forward, Request


def _load_triton() -> Forward:
    from kblam_kernels.pruning import triton_scores

    return triton_scores.summed_scores


def _load_reference() -> Forward:
    from kblam_kernels.pruning import reference

    return reference.summed_scores


def _verify_cpu(request: Request) -> str | None:
    # The scores are a product of a vector and a matrix: PyTorch's own is as fast as the memory of a CPU.
    return None if request.device.type == "cpu" else f"tensors are on {request.device.type}"


_verify_triton = next(backend for backend in BACKENDS if backend.name == "triton").verify

PRUNING_BACKENDS: tuple[Backend, ...] = (
    Backend("triton", _verify_triton, _load_triton),
    Backend("cpu", _verify_cpu, _load_reference),
    Backend("reference", lambda request: None, _load_reference),
)
