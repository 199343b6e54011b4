"""Attention mass of knowledge tokens as an op: its backends."""

from __future__ import annotations

from kblam_kernels.common import dispatch
from kblam_kernels.common.op import Op
from kblam_kernels.evidence.call import EvidenceCall

evidence_mass = Op(
    "evidence_mass",
    EvidenceCall,
    (
        # Rows of any width arrive chunk by chunk.
        dispatch.Triton("kblam_kernels.evidence.triton_mass", max_width=None),
        dispatch.Cpu("kblam_kernels.evidence.cpu"),
        dispatch.Reference("kblam_kernels.evidence.reference"),
    ),
)
