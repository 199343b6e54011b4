"""Attention to the best k knowledge tokens only (upstream's `dynamic_sparsify`)."""

from kblam_kernels.pruning.interface import prune

__all__ = ["prune"]
