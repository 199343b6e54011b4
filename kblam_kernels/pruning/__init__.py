"""Attention to the best k knowledge tokens only (upstream's `dynamic_sparsify`)."""

from kblam_kernels.pruning.interface import choose, prune, select

__all__ = ["choose", "prune", "select"]
