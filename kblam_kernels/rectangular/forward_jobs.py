"""What `kblam_kernels.resources` compiles of the dense forward kernel: every row of the tile table.

Each row is compiled with the inputs that cost the most registers; prefill also with those of a usual call.
"""

from __future__ import annotations

from collections.abc import Iterator

from kblam_kernels import tiles
from kblam_kernels.resources import CompileJob

_SWITCHES = ("HAS_BIAS", "BIAS_PER_TOKEN", "HAS_MASK", "HAS_WINDOW", "HAS_RANGE")
# One list of knowledge for the batch, log C - log M as the bias.
_PLAIN = {**dict.fromkeys(_SWITCHES, False), "HAS_BIAS": True}
_PADDED = {**_PLAIN, "HAS_MASK": True}
_EVERYTHING = dict.fromkeys(_SWITCHES, True)
_POINTER = {"bfloat16": "*bf16", "float16": "*fp16", "float32": "*fp32"}


def compile_jobs() -> Iterator[CompileJob]:
    """The jobs of `rectangular_forward_kernel`."""
    archs: tuple[tiles.Arch, ...] = ("sm_80", "sm_90")
    for arch in archs:
        for head_dim in tiles.HEAD_DIM_BUCKETS:
            yield _job(arch, head_dim, "bfloat16", "prefill", "plain", _PLAIN)
            yield _job(arch, head_dim, "bfloat16", "masked", "everything", _EVERYTHING)
            yield _job(arch, head_dim, "bfloat16", "short", "everything", _EVERYTHING)
            yield _job(arch, head_dim, "bfloat16", "masked", "padded", _PADDED, extended=True)
            yield _job(arch, head_dim, "float32", "prefill", "everything", _EVERYTHING, extended=True)
        yield _job(arch, 128, "float16", "prefill", "plain", _PLAIN, extended=True)
        yield _job(arch, 80, "bfloat16", "prefill", "plain", _PLAIN, extended=True)
    # The other rows of sm_86 are those of sm_80; test_tiles checks that they fit.
    regimes: tuple[tiles.Regime, ...] = ("prefill", "short")
    for regime in regimes:
        yield _job("sm_86", 256, "bfloat16", regime, "everything", _EVERYTHING, extended=True)
    yield _job("sm_86", 256, "float32", "prefill", "everything", _EVERYTHING, extended=True)


def _job(
    arch: tiles.Arch,
    head_dim: int,
    dtype: str,
    regime: tiles.Regime,
    inputs: str,
    switches: dict[str, bool],
    *,
    extended: bool = False,
) -> CompileJob:
    precision: tiles.Precision = "float32" if dtype == "float32" else "half"
    tile = tiles.lookup(arch, tiles.bucket_of(head_dim), precision, regime)
    main, rest = tiles.split_head_dim(head_dim, tile.block_n)
    constants: dict[str, int | bool | str | None] = {
        **switches,
        "GROUP": 4,
        "HEAD_DIM": head_dim,
        "DIM_MAIN": main,
        "DIM_REST": rest,
        "BLOCK_N": tile.block_n,
        "BLOCK_M": tile.block_m,
        "RAGGED_STAGES": tile.ragged_stages or tile.num_stages,
        "IS_SHARED": True,
        "PRECISION": "tf32x3",
    }
    types = dict.fromkeys(("B", "Hq", "N", "T", "M", "window"), "i32") | {"scale": "fp32", "lse": "*fp32"}
    for name in ("query", "key", "value", "knowledge_key", "knowledge_value", "knowledge_query", "output"):
        types[name] = _POINTER[dtype]
        types |= {f"{name}_{axis}_stride": "i32" for axis in ("batch", "head", "row")}
    divisible = frozenset(types) - {"B", "Hq", "N", "T", "M", "window"}
    for tensor, strides, present, type_ in (
        ("bias", ("bias_batch_stride", "bias_token_stride"), switches["HAS_BIAS"], "*fp32"),
        ("prompt_bias", ("mask_batch_stride", "mask_column_stride"), switches["HAS_MASK"], "*fp32"),
        ("knowledge_range", ("range_batch_stride", "range_end_stride"), switches["HAS_RANGE"], "*i32"),
    ):
        types |= dict.fromkeys(strides, "i32")
        if present:
            types[tensor] = type_
            divisible |= {tensor}
            # The launcher specialises on a stride of 1. That of a bias for the whole list is 0.
            if tensor != "bias" or switches["BIAS_PER_TOKEN"]:
                del types[strides[1]]
                constants[strides[1]] = 1
        else:
            constants[tensor] = None
    return CompileJob(
        kernel="rectangular_forward_kernel",
        variant=f"{dtype} D{head_dim} {regime} {inputs}",
        arch=arch,
        tile=str(tile),
        module="kblam_kernels.rectangular.triton_forward",
        types=types,
        constants=constants,
        divisible=divisible,
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        extended=extended,
    )
