"""Rectangular attention: the maths is in README.md, the specification in reference.py."""

from kblam_kernels.rectangular.interface import explain, rectangular_attention

__all__ = ["explain", "rectangular_attention"]
