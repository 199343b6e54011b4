"""Knowledge held once, as encoder latents: the projections are absorbed into queries and outputs."""

from kblam_kernels.latent.projection import AbsorbedAdapter, KeyNorm, absorb, narrowed
from kblam_kernels.latent.quantise import quantise

__all__ = ["AbsorbedAdapter", "KeyNorm", "absorb", "narrowed", "quantise"]
