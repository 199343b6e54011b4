"""Tensors that do not fit, given straight to the C++ ops: each is refused, whatever the Python around them checks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from kblam_kernels import UnsupportedInputError

B, HQ, HKV, N, T, M, D, P = 2, 4, 2, 3, 9, 7, 16, 24


def prompt() -> dict[str, Tensor]:
    return {"query": torch.randn(B, HQ, N, D), "key": torch.randn(B, HKV, T, D), "value": torch.randn(B, HKV, T, D)}


def restrictions() -> dict[str, Tensor]:
    return {
        "bias": torch.randn(B, M),
        "prompt_mask": torch.ones(B, T, dtype=torch.bool),
        "knowledge_range": torch.tensor([[0, M], [2, 5]], dtype=torch.int32),
    }


def latents() -> dict[str, Tensor]:
    pair = {name: torch.randint(-9, 9, (M, P), dtype=torch.int8) for name in ("latent_key", "latent_value")}
    return {**pair, **{name: torch.rand(M) for name in ("norm", "key_scale", "value_scale")}}


def per_row() -> Tensor:
    return torch.rand(B, HQ, N)


# As each op has them, every optional tensor present.
OPS: dict[str, Callable[[], dict[str, Any]]] = {
    "dense_forward_cpu": lambda: {
        **prompt(),
        **{name: torch.randn(HQ, M, D) for name in ("knowledge_key", "knowledge_value")},
        "knowledge_query": torch.randn(B, HQ, N, D),
        **restrictions(),
        "scale": 0.25,
        "window": 5,
    },
    "latent_forward_cpu": lambda: {
        **prompt(),
        **latents(),
        "absorbed_query": torch.randn(B, HQ, N, P),
        "constant": per_row(),
        **restrictions(),
        "scale": 0.25,
        "window": 5,
        "int8_products": False,
    },
    "latent_attention_cpu": lambda: {
        **prompt(),
        **latents(),
        "knowledge_query": torch.randn(B, HQ, N, D),
        "query_weight": None,
        **{f"{name}_weight": torch.randn(HQ, D, P) for name in ("key", "value")},
        **{f"{name}_bias": torch.randn(HQ, D) for name in ("key", "value")},
        **restrictions(),
        "scale": 0.25,
        "window": 5,
        "int8_products": False,
    },
    "latent_attention_cpu of hidden states": lambda: {
        **OPS["latent_attention_cpu"](),
        "knowledge_query": torch.randn(B, N, P),
        "query_weight": torch.randn(HQ * D, P),
    },
    "evidence_mass_cpu": lambda: {
        "rows": torch.randn(B, HQ, N, P),
        "key": torch.randint(-9, 9, (M, P), dtype=torch.int8),
        "norm": torch.rand(M),
        "key_scale": torch.rand(M),
        **{name: per_row() for name in ("constant", "lse", "row_weight")},
        **{name: tensor for name, tensor in restrictions().items() if name != "prompt_mask"},
        "scale": 0.25,
        "int8_products": False,
    },
    "evidence_mass_cpu of dense keys": lambda: {
        "rows": torch.randn(B, HQ, N, D),
        "key": torch.randn(HQ, M, D),
        "norm": None,
        "key_scale": None,
        "constant": None,
        **{name: per_row() for name in ("lse", "row_weight")},
        **{name: tensor for name, tensor in restrictions().items() if name != "prompt_mask"},
        "scale": 0.25,
        "int8_products": False,
    },
}


def call(name: str, arguments: dict[str, Any]) -> Any:
    return getattr(torch.ops.kblam_kernels, name.split()[0])(**arguments, kernels="")


def one_larger(tensor: Tensor) -> Iterator[Tensor]:
    for dim, size in enumerate(tensor.shape):
        yield tensor.new_zeros([*tensor.shape[:dim], size + 1, *tensor.shape[dim + 1 :]])


def another_rank(tensor: Tensor) -> Iterator[Tensor]:
    yield tensor.flatten().unsqueeze(1) if tensor.dim() == 1 else tensor.flatten()
    yield tensor[None]
    yield tensor.new_zeros(())


def without_its_first_dimension(tensor: Tensor) -> Iterator[Tensor]:
    """A batch row of what has a batch: all rows would be computed with it."""
    if tensor.dim():
        yield tensor[0]


def another_dtype(tensor: Tensor) -> Iterator[Tensor]:
    yield from (
        tensor.to(dtype)
        for dtype in (torch.float64, torch.int32, torch.int64, torch.complex64)
        if dtype != tensor.dtype
    )


def gaps_in_the_last_dimension(tensor: Tensor) -> Iterator[Tensor]:
    yield tensor.repeat_interleave(2, -1)[..., ::2]


def another_device(tensor: Tensor) -> Iterator[Tensor]:
    yield tensor.to("meta")


CHANGES = (
    one_larger,
    another_rank,
    without_its_first_dimension,
    another_dtype,
    gaps_in_the_last_dimension,
    another_device,
)


@pytest.mark.parametrize("name", OPS)
def test_all_tensors_of_the_op_are_tried(name: str, library: None) -> None:
    schema = getattr(torch.ops.kblam_kernels, name.split()[0]).default._schema
    arguments = OPS[name]()
    assert {argument.name for argument in schema.arguments} == {*arguments, "kernels"}
    call(name, arguments)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("name", OPS)
def test_what_does_not_fit_is_refused(name: str, change: Callable[[Tensor], Iterator[Tensor]], library: None) -> None:
    arguments = OPS[name]()
    taken = []
    for argument, tensor in arguments.items():
        if (argument, tensor.dim() if isinstance(tensor, Tensor) else 0, change) == (
            "key",
            3,
            without_its_first_dimension,
        ):
            continue  # keys of one head are latents
        for changed in change(tensor) if isinstance(tensor, Tensor) else ():
            try:
                call(name, {**arguments, argument: changed})
            except (RuntimeError, IndexError, NotImplementedError, UnsupportedInputError):
                continue
            taken.append(f"{argument} {tuple(changed.shape)} {changed.dtype} {changed.stride()} {changed.device}")
    assert not taken
