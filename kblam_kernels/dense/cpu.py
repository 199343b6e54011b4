"""Attention to dense knowledge on the CPU by the C++ kernels of `csrc/`."""

from __future__ import annotations

import torch
from torch import Tensor

from kblam_kernels.common import native
from kblam_kernels.common.call import Attend
from kblam_kernels.dense.call import DenseCall


def forward(call: DenseCall) -> tuple[Tensor, ...]:
    """Output and lse. A row's bits do not depend on the number of threads or on the rest of its batch."""
    return bound(call)(
        call.query, call.key, call.value, call.knowledge_query, call.bias, call.prompt_mask, call.knowledge_range
    )


def is_one_op(call: DenseCall) -> bool:
    """Whether one C++ call serves."""
    return True


def bound(call: DenseCall) -> Attend:
    """The C++ op of this call's knowledge."""
    op = torch.ops.kblam_kernels.dense_forward_cpu.default
    knowledge = (call.knowledge_key, call.knowledge_value)
    options = (call.scale, call.window, native.wanted_instruction_set())

    def attend(query: Tensor, key: Tensor, value: Tensor, r: Tensor, *visibility: Tensor | None) -> tuple[Tensor, ...]:
        rows = native.kernel_layout(*visibility, batch=query.shape[0])
        return op(query, key, value, *knowledge, r, *rows, *options)

    return attend
