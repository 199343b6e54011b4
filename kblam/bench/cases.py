"""Which shapes `kblam bench` and the suites of `benchmarks/` measure, in which dtypes, and what they need."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kblam.bench.problems import dense_key_heads
from kblam.bench.shapes import CPU_PREFILL, MODELS, PHASES, TINY, Model, Shape, of
from kblam.bench.subjects import PATHS, STORED
from kblam.counts import many
from kblam.errors import BenchmarkError
from kblam_kernels.plan.devices import free_memory
from kblam_kernels.tools.env import quick_dtype

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}
_OWN = re.compile(r"(\d+)x(\d+)x(\d+)(?:x(\d+))?")
_COUNT = re.compile(r"(\d[\d_]*)([kKmM]?)")
_TIMES = {"": 1, "k": 1_000, "m": 1_000_000}


@dataclass(frozen=True)
class Case:
    """A shape in a dtype."""

    shape: Shape
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """Such as "Llama-3-8B decode B1 N1 T65 M10000 bfloat16"."""
        return f"{self.shape.name} {self.dtype_name}"

    @property
    def dtype_name(self) -> str:
        """Such as "bfloat16"."""
        return name_of(self.dtype)

    @property
    def title(self) -> str:
        """For people."""
        shape = self.shape
        tokens = many(shape.N, "new token")
        return f"{shape.model.name} {shape.phase}, {tokens}, {many(shape.M, 'triple')}, {self.dtype_name}"

    @property
    def bytes_needed(self) -> int:
        """About how much memory all implementations on it take on a CPU, where they are held side by side."""
        shape, model, size = self.shape, self.shape.model, self.dtype.itemsize
        heads = dense_key_heads(shape, size) * model.query_heads // model.key_heads
        latents = 2 * shape.M * model.latent_width
        # Drawn in float32, kept, in one byte twice, and in float64 for the judge.
        of_latents = latents * (2 + size + 2 + (8 if size == 4 else 0))
        # Dense, concatenated for who holds it and for who does so in each call, one head in float64.
        of_dense = 3 * shape.dense_bytes(heads, size) + shape.dense_bytes(1, 8)
        # Scores of a peer without a kernel, with copies on the way to a softmax in float32.
        scores = 12 * shape.rows * (shape.M + shape.T)
        return of_latents + of_dense + scores


def _list(name: str, entries: Sequence[tuple[str, int]], dtype: torch.dtype, **sizes: int) -> list[Case]:
    return [Case(of(MODELS[name], phase, triples, **sizes), dtype) for phase, triples in entries]


_HALF, _SINGLE = torch.bfloat16, torch.float32
# In the order in which they are run.
FULL = (
    *_list("llama-3-8b", [("decode", M) for M in (1_000, 10_000, 100_000, 1_000_000)], _HALF),
    *_list("llama-3-8b", [("decode", M) for M in (10_000, 100_000)], _SINGLE),
    *_list("llama-3.2-1b", [("decode", 10_000)], _HALF),
    *_list("llama-3-8b", [("question", 10_000)], _HALF, prefill=16),
    *(case for N in (128, 512, 2048) for case in _list("llama-3-8b", [("prefill", 10_000)], _HALF, prefill=N)),
    *_list("llama-3-8b", [("prefill", 10_000)], _SINGLE),
    *_list("llama-3-8b", [("evidence", M) for M in (10_000, 100_000)], _HALF),
)


def quick(device: str) -> list[Case]:
    """One token in two dtypes, and many in the one that the device multiplies fast: in the order in which they are run.

    One token is bound by memory. Of many the peers take minutes in bfloat16 where a processor has no instructions for
    it, and nobody would use it there.
    """
    return [
        *_list("llama-3-8b", [("decode", 10_000)], _HALF),
        *_list("llama-3-8b", [("decode", 10_000)], _SINGLE),
        *_list("llama-3-8b", [("prefill", 10_000)], quick_dtype(device)),
    ]


def model_of(name: str) -> Model:
    """A model of the registry, "tiny", or heads x key heads x head dim (x latent width), such as "24x8x128".

    Raises:
        BenchmarkError: it is none of them.
    """
    if name.lower() in MODELS:
        return MODELS[name.lower()]
    if name == TINY.name:
        return TINY
    found = _OWN.fullmatch(name)
    if found is None:
        raise BenchmarkError(
            f"--shapes: {name!r} is not one of {', '.join(MODELS)}, {TINY.name}; nor heads x key heads x head dim, "
            "such as 24x8x128, or with a latent width, 24x8x128x1024"
        )
    heads, key_heads, head_dim = (int(size) for size in found.groups()[:3])
    if not heads or not key_heads or not head_dim or heads % key_heads:
        raise BenchmarkError(f"--shapes: {name!r} has {heads} heads, which must be a multiple of {key_heads} key heads")
    return Model(name, heads, key_heads, head_dim, int(found[4] or Model.latent_width))


def count_of(text: str) -> int:
    """Triples: a whole number, such as 10000, 10K or 1M.

    Raises:
        BenchmarkError: it is none.
    """
    found = _COUNT.fullmatch(text)
    if found is None:
        raise BenchmarkError(f"--triples: {text!r} is no whole number of triples, such as 10000, 10K or 1M")
    return int(found[1]) * _TIMES[found[2].lower()]


def dtype_of(name: str) -> torch.dtype:
    """A dtype of attention.

    Raises:
        BenchmarkError: it is none of `DTYPES`.
    """
    if name not in DTYPES:
        raise BenchmarkError(f"--dtype: {name!r} is not one of {', '.join(DTYPES)}")
    return DTYPES[name]


def chosen(
    shapes: Sequence[str] = (),
    triples: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    *,
    phases: Sequence[str] = ("decode", "prefill"),
    tokens: Sequence[str] = (),
) -> list[Case]:
    """Every phase of every model with every number of triples in every dtype; what is left empty is Llama-3-8B, 10,000
    triples, bfloat16.

    Args:
        shapes, triples, dtypes: as the options name them.
        phases: of `PHASES`.
        tokens: new ones of prefill, each a shape of its own; other phases have their own number.

    Raises:
        BenchmarkError: a name or number is not known.
    """
    models = [model_of(name) for name in shapes or ("llama-3-8b",)]
    counts = [count_of(text) for text in triples or ("10000",)]
    kinds = [dtype_of(name) for name in dtypes or ("bfloat16",)]
    for phase in phases:
        if phase not in PHASES:
            raise BenchmarkError(f"--phases: {phase!r} is not one of {', '.join(PHASES)}")
    lengths = [_tokens_of(text) for text in tokens] or [CPU_PREFILL]
    return [
        Case(of(model, phase, M, prefill=N), dtype)
        for model in models
        for phase in phases
        for M in counts
        for N in (lengths if phase == "prefill" else [CPU_PREFILL])
        for dtype in kinds
    ]


def _tokens_of(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise BenchmarkError(f"--tokens: {text!r} is no number of new tokens, such as 128")
    return int(text)


@dataclass(frozen=True)
class Only:
    """Which of ours are measured; what is left empty leaves all.

    Args:
        storages: dtypes of latents: that of a case, int8, float8_e4m3fn.
        paths: latent, dense, materialise.
    """

    storages: Sequence[str] = ()
    paths: Sequence[str] = ()

    def check(self, cases: Sequence[Case]) -> None:
        """Raises BenchmarkError if a name is not known, or no case has it."""
        stored = [*dict.fromkeys(case.dtype_name for case in cases), *dict.fromkeys(map(name_of, STORED.values()))]
        for option, names, known in (("--storage", self.storages, stored), ("--plan", self.paths, list(PATHS))):
            if missing := [name for name in names if name not in known]:
                raise BenchmarkError(
                    f"{option}: {missing[0]!r} is not measured here; choose of {', '.join(known)}"
                    + ("; latents in a 16- or 32-bit dtype are those of --dtype" if option == "--storage" else "")
                )

    def leaves_out(self, case: Case) -> set[str]:
        """Names of ours that are not measured on a case."""
        left_out = set()
        for path, names in PATHS.items():
            left_out |= set(names) if self.paths and path not in self.paths else set()
        for name in PATHS["latent"]:
            stored = name_of(STORED[name]) if name in STORED else case.dtype_name
            left_out |= {name} if self.storages and stored not in self.storages else set()
        return left_out


def name_of(dtype: torch.dtype) -> str:
    """Such as "bfloat16"."""
    return str(dtype).removeprefix("torch.")


def check_fits(case: Case, device: str) -> None:
    """Raises BenchmarkError if a CPU has not the memory for it; on a GPU a row says what does not fit."""
    where = torch.device(device)
    if where.type == "cuda":
        return
    free = free_memory(where)
    if case.bytes_needed > free:
        raise BenchmarkError(
            f"{case.title}: needs about {case.bytes_needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free; "
            "choose fewer --triples or a smaller one of --shapes"
        )
