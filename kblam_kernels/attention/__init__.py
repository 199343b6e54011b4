"""The public calls: attention to knowledge of either layout, once or in a loop."""

from kblam_kernels.attention.decoding import RectangularAttention
from kblam_kernels.attention.interface import explain, rectangular_attention

__all__ = ["RectangularAttention", "explain", "rectangular_attention"]
