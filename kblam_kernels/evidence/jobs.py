"""What `kblam_kernels.resources` compiles of evidence: every row of its tile table, with all inputs present."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kblam_kernels.evidence.tiles import is_unrolled, mass_tile
from kblam_kernels.latent.tiles import storage_of
from kblam_kernels.rectangular.chunks import chunk_of
from kblam_kernels.resources import CompileJob

# Storage with a scale for each triple, by the type its kernels read.
STORED = {"*i8": torch.int8, "*u8": torch.float8_e4m3fn}
# (layout, rows, width, row pointer, stored key pointer, left out of the quick set)
_ROWS = (
    ("dense", 1, 128, "*bf16", "*bf16", False),
    ("dense", 1, 64, "*bf16", "*bf16", True),
    ("dense", 1, 96, "*bf16", "*bf16", True),
    ("dense", 1, 256, "*bf16", "*bf16", True),
    ("dense", 20, 128, "*bf16", "*bf16", True),
    ("dense", 1000, 128, "*bf16", "*bf16", False),
    ("dense", 1000, 256, "*fp16", "*fp16", True),
    ("dense", 1, 128, "*fp32", "*fp32", True),
    ("dense", 1000, 128, "*fp32", "*fp32", True),
    ("latent", 32, 384, "*bf16", "*bf16", False),
    ("latent", 32, 384, "*bf16", "*fp16", True),
    ("latent", 32, 384, "*bf16", "*i8", True),
    ("latent", 32, 384, "*bf16", "*u8", False),
    ("latent", 32, 1536, "*bf16", "*bf16", True),
    ("latent", 1000, 384, "*bf16", "*u8", True),
    ("latent", 32, 384, "*fp32", "*fp16", True),
    ("latent", 1000, 384, "*fp32", "*fp32", True),
)
_SIZES = ("B", "Hq", "N", "M", "heads", "rows")


def compile_jobs() -> Iterator[CompileJob]:
    """The jobs of `evidence_mass_kernel`."""
    for arch in ("sm_80", "sm_90"):
        for row in _ROWS:
            yield _job(arch, *row)


def _job(arch: str, layout: str, rows: int, width: int, pointer: str, stored: str, extended: bool) -> CompileJob:
    tile = mass_tile(rows, 4 if pointer == "*fp32" else 2)
    chunk = chunk_of(width, tile.chunk)
    latent = layout == "latent"
    constants: dict[str, int | bool | str | None] = {
        **dict.fromkeys(("HAS_BIAS", "HAS_RANGE"), True),
        "HAS_NORM": latent,
        "HAS_SCALE": stored in STORED,
        # The launcher specialises on a stride of 1.
        **dict.fromkeys(("bias_token_stride", "range_end_stride"), 1),
        "WIDTH": width,
        "CHUNK": chunk,
        "IS_PADDED": width % chunk != 0,
        "UNROLLED": is_unrolled(width, tile),
        "BLOCK_ROWS": tile.block_rows,
        "BLOCK_M": tile.block_m,
        "KEY_GAIN": storage_of(STORED[stored]).gain if stored in STORED else 1,
        "PRECISION": "tf32x3",
    }
    types = dict.fromkeys(_SIZES, "i32") | {
        "scale": "fp32",
        "knowledge_range": "*i32",
        "rows_of": pointer,
        "key": stored,
    }
    types |= dict.fromkeys(("lse", "bias", "row_weight", "mass"), "*fp32")
    for name, present in (("norm", latent), ("constant", latent), ("key_scale", stored in STORED)):
        if present:
            types[name] = "*fp32"
        else:
            constants[name] = None
    aligned = {f"{tensor}_{axis}_stride": "i32" for tensor in ("rows", "key") for axis in ("batch", "head", "row")}
    types |= aligned | dict.fromkeys(("bias_batch_stride", "range_batch_stride"), "i32")
    pointers = {name for name, type_ in types.items() if type_.startswith("*")}
    return CompileJob(
        kernel="evidence_mass_kernel",
        variant=f"{layout} {pointer[1:]} of {stored[1:]} W{width} rows{rows}",
        arch=arch,
        tile=str(tile),
        module="kblam_kernels.evidence.triton_mass",
        types=types,
        constants=constants,
        divisible=frozenset(pointers | set(aligned)),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        extended=extended,
    )
