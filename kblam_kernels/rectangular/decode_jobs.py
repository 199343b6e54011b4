"""What `kblam_kernels.resources` compiles of dense decode: every row of its tile table, with all inputs present."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from kblam_kernels.rectangular.chunks import PROMPT_SPLIT, head_chunk_of, prompt_block
from kblam_kernels.rectangular.decode_tiles import decode_tile
from kblam_kernels.resources import CompileJob

# (dtype, pointer type, element size, head_dim, left out of the quick set)
_ROWS = (
    ("bfloat16", "*bf16", 2, 128, False),
    ("bfloat16", "*bf16", 2, 64, True),
    ("bfloat16", "*bf16", 2, 80, True),
    ("bfloat16", "*bf16", 2, 96, True),
    ("bfloat16", "*bf16", 2, 256, True),
    ("float16", "*fp16", 2, 128, True),
    ("float32", "*fp32", 4, 64, True),
    ("float32", "*fp32", 4, 128, True),
    ("float32", "*fp32", 4, 256, True),
)
_SIZES = (
    *("B", "Hq", "Hkv", "N", "T", "M", "window", "rows", "row_count", "row_tiles", "groups"),
    *("knowledge_programs", "knowledge_splits", "splits", "split_size", "prompt_row_tiles"),
)
_TENSORS = ("query", "key", "value", "knowledge_key", "knowledge_value", "knowledge_query")


def compile_jobs() -> Iterator[CompileJob]:
    """The jobs of `rectangular_decode_kernel`: with all inputs, and with none of those that may be absent."""
    for arch in ("sm_80", "sm_90"):
        for dtype, pointer, element_size, head_dim, extended in _ROWS:
            yield _job(arch, dtype, pointer, element_size, head_dim, extended)
            if head_dim in (64, 128) and dtype != "float16":
                yield _without_options(_job(arch, dtype, pointer, element_size, head_dim, True))


def _without_options(job: CompileJob) -> CompileJob:
    types, constants = dict(job.types), dict(job.constants)
    for switch, tensor, batch, column in (
        ("HAS_BIAS", "bias", "bias_batch_stride", "bias_token_stride"),
        ("HAS_MASK", "prompt_mask", "mask_batch_stride", "mask_column_stride"),
        ("HAS_RANGE", "knowledge_range", "range_batch_stride", "range_end_stride"),
    ):
        del types[tensor], constants[column]
        types |= dict.fromkeys((batch, column), "i32")
        constants |= {switch: False, tensor: None}
    return dataclasses.replace(
        job,
        variant=job.variant.replace("everything", "plain"),
        types=types,
        constants=constants | {"HAS_WINDOW": False},
    )


def _job(arch: str, dtype: str, pointer: str, element_size: int, head_dim: int, extended: bool) -> CompileJob:
    tile = decode_tile(head_dim, element_size)
    chunk = head_chunk_of(head_dim, element_size)
    constants: dict[str, int | bool | str | None] = {
        **dict.fromkeys(("HAS_BIAS", "HAS_MASK", "HAS_WINDOW", "HAS_RANGE"), True),
        # The launcher specialises on a stride of 1.
        **dict.fromkeys(("bias_token_stride", "mask_column_stride", "range_end_stride"), 1),
        "HEAD_DIM": head_dim,
        "GROUP": 4,
        "BLOCK_ROWS": tile.block_rows,
        "BLOCK_M": tile.block_m,
        "PROMPT_ROWS": tile.block_rows,
        "PROMPT_BLOCK": prompt_block(head_dim, element_size),
        "PROMPT_SPLIT": PROMPT_SPLIT,
        "CHUNK": chunk,
        "CHUNKS": -(-head_dim // chunk),
        "IS_PADDED": head_dim % chunk != 0,
        "PRECISION": "tf32x3",
    }
    types = dict.fromkeys(_SIZES, "i32") | {"scale": "fp32", "prompt_mask": "*i1", "knowledge_range": "*i32"}
    types |= dict.fromkeys(_TENSORS, pointer) | dict.fromkeys(("bias", "partial", "maximum", "total"), "*fp32")
    aligned = {f"{tensor}_{axis}_stride": "i32" for tensor in _TENSORS for axis in ("batch", "head", "row")}
    types |= aligned | dict.fromkeys(("bias_batch_stride", "mask_batch_stride", "range_batch_stride"), "i32")
    pointers = {name for name, type_ in types.items() if type_.startswith("*")}
    return CompileJob(
        kernel="rectangular_decode_kernel",
        variant=f"{dtype} D{head_dim} everything",
        arch=arch,
        tile=str(tile),
        module="kblam_kernels.rectangular.triton_decode_kernels",
        types=types,
        constants=constants,
        divisible=frozenset(pointers | set(aligned)),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        extended=extended,
    )
