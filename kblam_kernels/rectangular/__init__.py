"""Rectangular attention: the maths is in README.md, the specification in reference.py."""

from kblam_kernels.rectangular.interface import explain, rectangular_attention
from kblam_kernels.rectangular.repeated import RectangularAttention

__all__ = ["RectangularAttention", "explain", "rectangular_attention"]
