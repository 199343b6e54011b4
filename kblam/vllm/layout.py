"""How vLLM's CPU kernels lay a block of their cache out, found by writing to one.

The order of a block's numbers is a matter of the kernels and of the processor (keys are transposed, or packed in pairs
for AMX), and vLLM says it nowhere. So a block is written through vLLM's own operation, each number saying where it
stood, and read back.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor
from vllm import _custom_ops as ops

from kblam.errors import EngineError

# Whole numbers that bfloat16 holds exactly.
_DIGITS = 256


@dataclass(frozen=True, eq=False)
class BlockLayout:
    """Where keys and values of a block's tokens are.

    Args:
        key, value: int64 (block_size, D), the place of each number in its half of the block.
        key_strides, value_strides: of (token, number), where places are a sum of multiples; else None.
    """

    key: Tensor
    value: Tensor
    key_strides: tuple[int, int] | None
    value_strides: tuple[int, int] | None

    def views(self, cache: Tensor, block_table: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values as `paged_prompt_attention` reads them.

        Args:
            cache: (blocks, Hkv, block_size, 2 D), as vLLM has it.
            block_table: int32 (R, columns).

        Returns:
            Key and value cache, (n, block_size, Hkv, D), and the table for them: views where there are strides, else
            copies of the blocks that the table names.
        """
        half = self.key.numel()
        if self.key_strides is None or self.value_strides is None:
            blocks, table = block_table.unique(return_inverse=True)
            cache = cache[blocks.long()]
            found = (part[..., where] for part, where in zip(_halves(cache, half), (self.key, self.value), strict=True))
            key, value = (part.transpose(1, 2) for part in found)
            return key, value, table.to(torch.int32)
        size, width = self.key.shape
        blocks, heads = cache.shape[:2]
        block, head = cache.stride()[:2]
        key, value = (
            cache.as_strided(
                (blocks, size, heads, width), (block, token, head, number), cache.storage_offset() + offset
            )
            for offset, (token, number) in ((0, self.key_strides), (half, self.value_strides))
        )
        return key, value, block_table


@functools.cache
def layout_of(isa: str, dtype: torch.dtype, block_size: int, head_dim: int) -> BlockLayout:
    """The layout of vLLM's kernels for an instruction set, as vLLM names it.

    Raises:
        EngineError: a block is not a reordering of keys and of values.
    """
    half = block_size * head_dim
    places = torch.arange(half).view(block_size, 1, head_dim)
    digits = []
    for digit in (places % _DIGITS, places // _DIGITS % _DIGITS, places // _DIGITS**2):
        cache = torch.zeros(1, 1, block_size, 2 * head_dim, dtype=dtype)
        ops.cpu_attn_reshape_and_cache(
            digit.to(dtype),
            digit.to(dtype),
            *cache.view(1, 1, 2 * block_size, head_dim).chunk(2, dim=2),
            torch.arange(block_size),
            isa,
            k_scale=1.0,
            v_scale=1.0,
            kv_cache_dtype="auto",
        )
        digits.append(torch.stack([part[0, 0] for part in _halves(cache, half)]).long())
    stood = digits[0] + _DIGITS * digits[1] + _DIGITS**2 * digits[2]
    if not torch.equal(stood.sort(-1).values, torch.arange(half).expand(2, half)):
        raise EngineError(
            f"the cache of vLLM's CPU kernels ({isa}, {dtype}) has an order that is not known here; pin the vLLM that "
            "constraints-vllm.txt names"
        )
    key, value = (order.argsort().view(block_size, head_dim) for order in stood)
    return BlockLayout(key, value, _strides(key), _strides(value))


def _halves(cache: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """(n, Hkv, block_size, 2 D) -> keys and values, (n, Hkv, block_size * D) each."""
    key, value = cache.flatten(2).split(half, dim=2)
    return key, value


def _strides(places: Tensor) -> tuple[int, int] | None:
    """Of (token, number), if these say all."""
    token, number = int(places[1, 0] - places[0, 0]), int(places[0, 1] - places[0, 0])
    tokens, numbers = (torch.arange(size) for size in places.shape)
    affine = bool((places == tokens[:, None] * token + numbers * number).all()) and int(places[0, 0]) == 0
    return (token, number) if affine else None
