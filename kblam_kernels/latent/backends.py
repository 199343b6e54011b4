"""The backends of latent attention, in the order in which "auto" tries them."""

from __future__ import annotations

from kblam_kernels.dispatch import Backend, Forward


def _load_reference() -> Forward:
    from kblam_kernels.latent import reference

    return reference.forward


LATENT_BACKENDS: tuple[Backend, ...] = (Backend("reference", lambda request: None, _load_reference),)
