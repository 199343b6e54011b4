"""What `kblam_kernels.resources` compiles of latent decode: every row of its tile table, with all inputs present."""

from __future__ import annotations

from collections.abc import Iterator

from kblam_kernels.latent.tiles import is_padded, latent_tile, value_parts
from kblam_kernels.rectangular.chunks import PROMPT_SPLIT, chunk_of, head_chunk_of, prompt_block
from kblam_kernels.resources import CompileJob
from kblam_kernels.tiles import Arch

HEAD_DIM = 128
# (dtype, pointer type, element size, P, left out of the quick set)
_ROWS = (
    ("bfloat16", "*bf16", 2, 384, False),
    ("bfloat16", "*bf16", 2, 1536, False),
    ("bfloat16", "*bf16", 2, 256, True),
    ("bfloat16", "*bf16", 2, 512, True),
    ("bfloat16", "*bf16", 2, 768, True),
    ("bfloat16", "*bf16", 2, 1024, True),
    ("bfloat16", "*bf16", 2, 3072, True),
    ("float16", "*fp16", 2, 384, True),
    ("float32", "*fp32", 4, 384, True),
)
_SIZES = (
    *("B", "Hq", "Hkv", "N", "T", "M", "window", "rows", "row_count", "row_tiles", "groups"),
    *("knowledge_programs", "knowledge_splits", "splits", "split_size", "prompt_row_tiles"),
)
_STRIDES = {
    "query": ("batch", "head", "row"),
    "key": ("batch", "head", "row"),
    "value": ("batch", "head", "row"),
    "latent_key": ("row",),
    "latent_value": ("row",),
    "absorbed": ("batch", "head", "row"),
}


def compile_jobs() -> Iterator[CompileJob]:
    """The jobs of `latent_decode_kernel`."""
    archs: tuple[Arch, ...] = ("sm_80", "sm_90")
    for arch in archs:
        for dtype, pointer, element_size, P, extended in _ROWS:
            yield _job(arch, dtype, pointer, element_size, P, extended)
    yield _job("sm_86", "bfloat16", "*bf16", 2, 512, True)


def _job(arch: Arch, dtype: str, pointer: str, element_size: int, P: int, extended: bool) -> CompileJob:
    tile = latent_tile(P, element_size, arch)
    chunk = chunk_of(P, tile.widest_chunk)
    parts, value_chunks = value_parts(P, tile)
    constants: dict[str, int | bool | str | None] = {
        **dict.fromkeys(("HAS_BIAS", "HAS_MASK", "HAS_WINDOW", "HAS_RANGE"), True),
        # The launcher specialises on a stride of 1.
        **dict.fromkeys(("bias_token_stride", "mask_column_stride", "range_end_stride"), 1),
        "P": P,
        "HEAD_DIM": HEAD_DIM,
        "GROUP": 4,
        "BLOCK_ROWS": tile.block_rows,
        "BLOCK_M": tile.block_m,
        "CHUNK": chunk,
        "CHUNKS": -(-P // chunk),
        "VALUE_CHUNKS": value_chunks,
        "VALUE_PARTS": parts,
        "IS_PADDED": is_padded(P, tile),
        "IS_RESIDENT": tile.resident,
        "PROMPT_ROWS": 16,
        "PROMPT_BLOCK": prompt_block(HEAD_DIM, element_size),
        "PROMPT_SPLIT": PROMPT_SPLIT,
        "DIM_CHUNK": head_chunk_of(HEAD_DIM, element_size),
        "DIM_CHUNKS": HEAD_DIM // head_chunk_of(HEAD_DIM, element_size),
        "IS_DIM_PADDED": False,
        "PRECISION": "tf32x3",
    }
    types = dict.fromkeys(_SIZES, "i32") | {"scale": "fp32", "prompt_mask": "*i1", "knowledge_range": "*i32"}
    types |= dict.fromkeys(("query", "key", "value", "latent_key", "latent_value", "absorbed_query"), pointer)
    types |= dict.fromkeys(("norm", "constant", "bias", "partial_latent", "partial_prompt"), "*fp32")
    types |= dict.fromkeys(("maximum", "total"), "*fp32")
    aligned = {f"{tensor}_{axis}_stride": "i32" for tensor, axes in _STRIDES.items() for axis in axes}
    types |= aligned | dict.fromkeys(("bias_batch_stride", "mask_batch_stride", "range_batch_stride"), "i32")
    pointers = {name for name, type_ in types.items() if type_.startswith("*")}
    return CompileJob(
        kernel="latent_decode_kernel",
        variant=f"{dtype} P{P} D{HEAD_DIM} everything",
        arch=arch,
        tile=str(tile),
        module="kblam_kernels.latent.triton_kernels",
        types=types,
        constants=constants,
        divisible=frozenset(pointers | set(aligned)),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        extended=extended,
    )
