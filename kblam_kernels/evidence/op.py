"""Attention mass of knowledge tokens as an op: its backends and its gradient."""

from __future__ import annotations

from torch import Tensor

from kblam_kernels.common import dispatch
from kblam_kernels.common.op import Op
from kblam_kernels.evidence.call import EvidenceCall

Tensors = tuple[Tensor, ...]


class EvidenceReference(dispatch.Reference[EvidenceCall]):
    def forward(self, call: EvidenceCall) -> Tensors:
        from kblam_kernels.evidence import reference

        return (reference.mass(call),)

    def backward(self, call: EvidenceCall, results: Tensors, gradients: Tensors) -> Tensors:
        from kblam_kernels.evidence import reference

        return reference.mass_gradients(call, gradients[0])


class EvidenceCpu(dispatch.Cpu[EvidenceCall]):
    def forward(self, call: EvidenceCall) -> Tensors:
        from kblam_kernels.evidence import cpu

        return (cpu.mass(call),)

    def has_odd_rows(self, call: EvidenceCall) -> bool:
        return not call.is_latent and super().has_odd_rows(call)


class EvidenceTriton(dispatch.Triton[EvidenceCall]):
    max_width = None  # rows of any width arrive chunk by chunk

    def forward(self, call: EvidenceCall) -> Tensors:
        from kblam_kernels.evidence import triton_mass

        return (triton_mass.mass(call),)


EVIDENCE_BACKENDS = (EvidenceTriton(), EvidenceCpu(), EvidenceReference())

evidence_mass: Op[EvidenceCall] = Op(
    "evidence_mass",
    EvidenceCall,
    EVIDENCE_BACKENDS,
    backwards=(EvidenceReference(),),
    results=("mass",),
    empty=lambda call: (call.lse.new_empty(call.rows.shape[0], call.key.shape[-2]),),
)
