"""What `kblam_kernels.resources` compiles of pruning's scores."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kblam_kernels.latent.tiles import storage_of
from kblam_kernels.pruning import tiles
from kblam_kernels.rectangular.chunks import chunk_of
from kblam_kernels.resources import CompileJob

# Storage with a scale for each triple, by the type its kernels read.
_SCALED = {"*i8": torch.int8, "*u8": torch.float8_e4m3fn}
# (layout, width, stored key pointer, left out of the quick set)
_ROWS = (
    ("dense", 128, "*bf16", False),
    ("dense", 96, "*fp16", True),
    ("dense", 256, "*fp32", True),
    ("latent", 384, "*bf16", True),
    ("latent", 384, "*u8", False),
    ("latent", 1536, "*i8", True),
)


def compile_jobs() -> Iterator[CompileJob]:
    """The jobs of `summed_scores_kernel`."""
    for arch in ("sm_80", "sm_90"):
        for row in _ROWS:
            yield _job(arch, *row)


def _job(arch: str, layout: str, width: int, stored: str, extended: bool) -> CompileJob:
    chunk = chunk_of(width, tiles.WIDEST_CHUNK)
    constants: dict[str, int | bool | str | None] = {
        "HAS_NORM": layout == "latent",
        "HAS_SCALE": stored in _SCALED,
        "WIDTH": width,
        "CHUNK": chunk,
        "CHUNKS": -(-width // chunk),
        "IS_PADDED": width % chunk != 0,
        "BLOCK_ROWS": tiles.BLOCK_ROWS,
        "BLOCK_M": tiles.BLOCK_M,
        "KEY_GAIN": storage_of(_SCALED[stored]).gain if stored in _SCALED else 1,
        "PRECISION": "tf32x3",
    }
    types = dict.fromkeys(("M", "heads", "rows", "row_tiles", "tiles"), "i32")
    types |= {"rows_of": "*fp32", "key": stored, "scores": "*fp32"}
    for name, present in (
        ("norm", layout == "latent"),
        ("constant", layout == "latent"),
        ("key_scale", stored in _SCALED),
    ):
        if present:
            types[name] = "*fp32"
        else:
            constants[name] = None
    strides = ("rows_batch", "rows_head", "key_batch", "key_head", "key_row")
    aligned = {f"{stride}_stride": "i32" for stride in strides}
    types |= aligned
    return CompileJob(
        kernel="summed_scores_kernel",
        variant=f"{layout} {stored[1:]} W{width}",
        arch=arch,
        tile=f"{tiles.BLOCK_ROWS}x{tiles.BLOCK_M}x{tiles.NUM_WARPS}x{tiles.NUM_STAGES}",
        module="kblam_kernels.pruning.triton_scores",
        types=types,
        constants=constants,
        divisible=frozenset({name for name, type_ in types.items() if type_.startswith("*")} | set(aligned)),
        num_warps=tiles.NUM_WARPS,
        num_stages=tiles.NUM_STAGES,
        extended=extended,
    )
