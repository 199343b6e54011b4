"""Attention to knowledge on the CPU, measured beside what PyTorch users have: `kblam bench`."""

from kblam_kernels.bench.shapes import FULL, QUICK, Shape
from kblam_kernels.bench.timing import Row, measure

__all__ = ["FULL", "QUICK", "Row", "Shape", "measure"]
