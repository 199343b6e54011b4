"""What is measured: attention shapes of real models, with question and knowledge sizes of use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kblam_kernels.plan import workload


@dataclass(frozen=True)
class Model:
    """Attention of one model; latents of MiniLM unless told otherwise."""

    name: str
    query_heads: int
    key_heads: int
    head_dim: int
    latent_width: int = 384


MODELS = {
    name: Model(size.title, size.num_heads, size.num_key_heads, size.head_dim) for name, size in workload.MODELS.items()
}
TINY = Model("tiny", 4, 2, 16, 24)


@dataclass(frozen=True)
class Work:
    """What a call must do at least: multiplications and additions, elements of the input dtype moved, other bytes."""

    flops: int
    elements: int
    other_bytes: int = 0

    def bytes_moved(self, element_size: int) -> int:
        """Bytes that cross memory."""
        return self.elements * element_size + self.other_bytes


@dataclass(frozen=True)
class Shape:
    """One call: B rows, N new of T prompt tokens, M knowledge tokens shared by the batch."""

    model: Model
    phase: str
    B: int
    N: int
    T: int
    M: int

    @property
    def name(self) -> str:
        """Such as "Llama-3-8B prefill B1 N1024 T1024 M10000"."""
        return f"{self.model.name} {self.phase} B{self.B} N{self.N} T{self.T} M{self.M}"

    @property
    def latent_bytes(self) -> int:
        """The knowledge as latents of 16 bits, with a norm each."""
        return self.M * (4 * self.model.latent_width + 4)

    def dense_bytes(self, heads: int, element_size: int) -> int:
        """The knowledge as keys and values of so many heads."""
        return 2 * self.M * heads * self.model.head_dim * element_size

    @property
    def rows(self) -> int:
        """Queries of all heads."""
        return self.B * self.model.query_heads * self.N

    @property
    def dense_work(self) -> Work:
        """Attention to dense keys and values: every input read once, the output written once."""
        D, (pairs, prompt) = self.model.head_dim, self._prompt
        # Query and output: the benchmark passes one tensor as both queries.
        elements = 2 * self.rows + prompt + 2 * self.model.query_heads * self.M
        return Work(4 * (pairs + self.rows * self.M) * D, elements * D)

    @property
    def latent_work(self) -> Work:
        """Attention to latents: their width in place of the head's, one copy for all heads, a float32 norm for each.

        Projecting queries and outputs counts too: both weights are read once.
        """
        D, P, (pairs, prompt) = self.model.head_dim, self.model.latent_width, self._prompt
        weights = 2 * self.model.query_heads * D * P
        flops = 4 * pairs * D + 4 * self.rows * self.M * P + 4 * self.rows * D * P
        return Work(flops, (2 * self.rows + prompt) * D + weights + 2 * self.M * P, 4 * self.M)

    @property
    def quantised_work(self) -> Work:
        """The same with a byte for each number of a latent, and a float32 scale for each key and value."""
        work, latents = self.latent_work, 2 * self.M * self.model.latent_width
        return Work(work.flops, work.elements - latents, work.other_bytes + latents + 8 * self.M)

    @property
    def materialise_work(self) -> Work:
        """Keys and values made from latents, written once, then attention to them."""
        D, P, heads, dense = self.model.head_dim, self.model.latent_width, self.model.query_heads, self.dense_work
        made = 2 * self.M * P + 2 * heads * D * P + 2 * heads * self.M * D
        return Work(dense.flops + 4 * self.M * heads * D * P, dense.elements + made, 4 * self.M)

    @property
    def dense_evidence_work(self) -> Work:
        """Evidence reads the keys and writes a mass a token, for each batch row."""
        D = self.model.head_dim
        return Work(2 * self.rows * self.M * D, (self.rows + self.model.query_heads * self.M) * D, 4 * self.B * self.M)

    @property
    def latent_evidence_work(self) -> Work:
        """The same of latents, with the projection of the queries."""
        D, P = self.model.head_dim, self.model.latent_width
        flops = 2 * self.rows * self.M * P + 2 * self.rows * D * P
        elements = self.rows * D + self.model.query_heads * D * P + self.M * P
        return Work(flops, elements, 4 * self.M * (1 + self.B))

    @property
    def _prompt(self) -> tuple[int, int]:
        """Visible (query, prompt token) pairs of all heads, and rows of cached keys and values."""
        pairs = self.N * (self.T - self.N) + self.N * (self.N + 1) // 2
        return self.B * self.model.query_heads * pairs, 2 * self.B * self.model.key_heads * self.T


PHASES = ("decode", "prefill", "question", "evidence")
KNOWLEDGE_SIZES = (1_000, 10_000, 100_000, 1_000_000)
# Models whose shapes a GPU run goes through.
ON_GPU = ("llama-3-8b", "llama-3.2-1b", "phi-3-mini")
# Prompt tokens of a row: shorter ones in a large batch, or a peer's scores alone would fill the memory.
PREFILL_TOKENS = {1: 1024, 8: 512, 32: 256}
QUESTION_TOKENS = 32
# On a CPU a question and a prompt are shorter, or one call takes seconds.
CPU_PREFILL, CPU_CONTEXT = 128, 64


def gpu_quick() -> Iterator[Shape]:
    """A few minutes of them on a GPU, the most telling first: what a cut-off run leaves."""
    model = MODELS["llama-3-8b"]
    for B, M in ((1, 10_000), (1, 100_000), (1, 1_000_000), (8, 10_000), (32, 10_000)):
        yield Shape(model, "decode", B, 1, 1024, M)
    for N in (1024, 4096):
        yield Shape(model, "prefill", 1, N, N, 10_000)
    yield Shape(model, "question", 1, QUESTION_TOKENS, QUESTION_TOKENS, 10_000)
    for M in (10_000, 1_000_000):
        yield Shape(model, "evidence", 1, 1, 1024, M)


def gpu_all() -> Iterator[Shape]:
    """Decode, prefill of prompts, of one question, and evidence, over the sizes of knowledge that people have; first
    those of `gpu_quick`."""
    first = list(gpu_quick())
    yield from first
    yield from (shape for shape in _every() if shape not in first)


def _every() -> Iterator[Shape]:
    for model in (MODELS[name] for name in ON_GPU):
        for B in (1, 8, 32):
            for M in KNOWLEDGE_SIZES:
                yield Shape(model, "decode", B, 1, 1024, M)
        for B, N in PREFILL_TOKENS.items():
            # A million triples with one prompt alone: with more, a float64 result takes minutes.
            for M in KNOWLEDGE_SIZES if B == 1 else KNOWLEDGE_SIZES[:-1]:
                yield Shape(model, "prefill", B, N, N, M)
        yield Shape(model, "prefill", 1, 4096, 4096, 10_000)
        yield Shape(model, "question", 1, QUESTION_TOKENS, QUESTION_TOKENS, 10_000)
        for B, M in ((1, 10_000), (1, 100_000), (1, 1_000_000), (8, 10_000)):
            yield Shape(model, "evidence", B, 1, 1024, M)


def of(model: Model, phase: str, triples: int, *, prefill: int = CPU_PREFILL, context: int = CPU_CONTEXT) -> Shape:
    """A shape of one row on a CPU: a new token after `context` others, `prefill` new ones, or a question."""
    if phase in ("prefill", "question"):
        tokens = prefill if phase == "prefill" else min(prefill, QUESTION_TOKENS)
        return Shape(model, phase, 1, tokens, tokens, triples)
    return Shape(model, phase, 1, 1, context + 1, triples)


def tiny() -> Iterator[Shape]:
    """The same phases in milliseconds on a CPU: to test the code, not to measure."""
    yield Shape(TINY, "prefill", 2, 8, 8, 20)
    yield Shape(TINY, "question", 1, 3, 3, 20)
    yield Shape(TINY, "decode", 2, 1, 9, 20)
    yield Shape(TINY, "evidence", 2, 1, 9, 20)
