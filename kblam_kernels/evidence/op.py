"""Attention mass of knowledge tokens as an op: its backends and its gradient."""

from __future__ import annotations

from kblam_kernels.common import dispatch
from kblam_kernels.common.op import Op
from kblam_kernels.evidence.call import EvidenceCall

_REFERENCE: dispatch.Backend[EvidenceCall] = dispatch.Reference("kblam_kernels.evidence.reference")
EVIDENCE_BACKENDS: tuple[dispatch.Backend[EvidenceCall], ...] = (
    # Rows of any width arrive chunk by chunk.
    dispatch.Triton("kblam_kernels.evidence.triton_mass", max_width=None),
    dispatch.Cpu("kblam_kernels.evidence.cpu"),
    _REFERENCE,
)

evidence_mass: Op[EvidenceCall] = Op(
    "evidence_mass",
    EvidenceCall,
    EVIDENCE_BACKENDS,
    backwards=(_REFERENCE,),
    results=("mass",),
    empty=lambda call: (call.lse.new_empty(call.rows.shape[0], call.key.shape[-2]),),
)
