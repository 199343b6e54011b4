"""What `kblam_kernels.resources` compiles of latent decode: every row of its tile table, with all inputs present.

Widths, storage and skipping are compiled with heads of 128; the other heads with every width and the usual storage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from kblam_kernels.latent.tiles import is_padded, latent_tile, prompt_chunk, storage_of, value_parts
from kblam_kernels.rectangular.chunks import PROMPT_ROWS, PROMPT_SPLIT, chunk_of, prompt_block
from kblam_kernels.resources import CompileJob
from kblam_kernels.tiles import Arch

HEAD_DIM = 128
WIDTHS = (256, 384, 512, 768, 1024, 1536, 3072)
_ELEMENT_SIZE = {"*bf16": 2, "*fp16": 2, "*fp32": 4}
_NAMES = {"*bf16": "bfloat16", "*fp16": "float16", "*fp32": "float32", "*i8": "int8", "*u8": "fp8"}


@dataclass(frozen=True)
class _Row:
    """One variant: pointer types of queries and of latents, widths of latents and heads, whether it may skip."""

    query: str
    P: int
    stored: str = ""
    head_dim: int = HEAD_DIM
    skips: bool = False
    extended: bool = True

    @property
    def name(self) -> str:
        stored = f"/{_NAMES[self.stored]}" if self.stored else ""
        return f"{_NAMES[self.query]}{stored} P{self.P} D{self.head_dim} {'skipping' if self.skips else 'everything'}"


_ROWS = (
    _Row("*bf16", 384, extended=False),
    _Row("*bf16", 384, "*i8", extended=False),
    _Row("*bf16", 384, "*u8", extended=False),
    _Row("*bf16", 384, skips=True, extended=False),
    _Row("*bf16", 1536, extended=False),
    *(_Row("*bf16", P) for P in (256, 512, 768, 1024, 3072)),
    *(_Row("*bf16", P, "*i8") for P in (256, 512, 768, 1024, 1536, 3072)),
    *(_Row("*bf16", P, "*u8") for P in (768, 1024, 1536)),
    *(_Row("*bf16", P, "*fp16") for P in (384, 1024, 1536)),
    *(_Row("*bf16", P, skips=True) for P in (1024, 1536)),
    _Row("*bf16", 384, "*i8", skips=True),
    _Row("*fp16", 384),
    *(_Row("*fp16", 384, stored) for stored in ("*bf16", "*i8", "*u8")),
    _Row("*fp32", 384),
    *(_Row("*fp32", 384, stored) for stored in ("*fp16", "*i8", "*u8")),
    _Row("*fp32", 384, skips=True),
    *(_Row("*bf16", P, head_dim=D) for D in (64, 96, 256) for P in WIDTHS),
    *(_Row("*bf16", 384, stored, head_dim=D) for D in (64, 96, 256) for stored in ("*i8", "*u8")),
    *(_Row("*fp32", 384, head_dim=D) for D in (64, 96, 256)),
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
        for row in _ROWS:
            yield _job(arch, row)
    yield _job("sm_86", _Row("*bf16", 512))
    yield _job("sm_86", _Row("*bf16", 512, "*i8"))


def _job(arch: Arch, row: _Row) -> CompileJob:
    P, D, element_size, stored = row.P, row.head_dim, _ELEMENT_SIZE[row.query], row.stored or row.query
    storage = storage_of({"*i8": torch.int8, "*u8": torch.float8_e4m3fn}.get(stored, torch.float32))
    tile = latent_tile(P, element_size, arch)
    chunk, dim_chunk = chunk_of(P, tile.widest_chunk), prompt_chunk(D, element_size)
    parts, value_chunks = value_parts(P, tile)
    constants: dict[str, int | bool | str | None] = {
        **dict.fromkeys(("HAS_BIAS", "HAS_MASK", "HAS_WINDOW", "HAS_RANGE"), True),
        # The launcher specialises on a stride of 1.
        **dict.fromkeys(("bias_token_stride", "mask_column_stride", "range_end_stride"), 1),
        "P": P,
        "HEAD_DIM": D,
        "GROUP": 4,
        "BLOCK_ROWS": tile.block_rows,
        "BLOCK_M": tile.block_m,
        "CHUNK": chunk,
        "CHUNKS": -(-P // chunk),
        "VALUE_CHUNKS": value_chunks,
        "VALUE_PARTS": parts,
        "IS_PADDED": is_padded(P, tile),
        "IS_RESIDENT": tile.resident,
        "KEY_GAIN": storage.gain,
        "VALUE_HEADROOM": storage.headroom,
        "HAS_SCALE": stored in ("*i8", "*u8"),
        "SKIPS": row.skips,
        "PROMPT_ROWS": PROMPT_ROWS,
        "PROMPT_BLOCK": prompt_block(D, element_size),
        "PROMPT_SPLIT": PROMPT_SPLIT,
        "DIM_CHUNK": dim_chunk,
        "DIM_CHUNKS": -(-D // dim_chunk),
        "IS_DIM_PADDED": D % dim_chunk != 0,
        "PRECISION": "tf32x3",
    }
    types = dict.fromkeys(_SIZES, "i32") | dict.fromkeys(("scale", "skip_threshold"), "fp32")
    types |= {"prompt_mask": "*i1", "knowledge_range": "*i32"}
    types |= dict.fromkeys(("query", "key", "value", "absorbed_query"), row.query)
    types |= dict.fromkeys(("latent_key", "latent_value"), stored)
    if constants["HAS_SCALE"]:
        types |= {"key_scale": "*fp32", "value_scale": "*fp32"}
    if row.skips:
        types |= {"tiles": "*i64"}
    constants |= {name: None for name in ("key_scale", "value_scale", "tiles") if name not in types}
    types |= dict.fromkeys(("norm", "constant", "bias", "partial_latent", "partial_prompt"), "*fp32")
    types |= dict.fromkeys(("maximum", "total"), "*fp32")
    aligned = {f"{tensor}_{axis}_stride": "i32" for tensor, axes in _STRIDES.items() for axis in axes}
    types |= aligned | dict.fromkeys(("bias_batch_stride", "mask_batch_stride", "range_batch_stride"), "i32")
    pointers = {name for name, type_ in types.items() if type_.startswith("*")}
    return CompileJob(
        kernel="latent_decode_kernel",
        variant=row.name,
        arch=arch,
        tile=str(tile),
        module="kblam_kernels.latent.triton_kernels",
        types=types,
        constants=constants,
        divisible=frozenset(pointers | set(aligned)),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        extended=row.extended,
    )
