"""Knowledge held once, as encoder latents: the projections are absorbed into queries and outputs."""

from kblam_kernels.latent.projection import AbsorbedAdapter, KeyNorm, absorb

__all__ = ["AbsorbedAdapter", "KeyNorm", "absorb"]
