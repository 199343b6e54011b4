"""What is measured: attention shapes of real models, with question and knowledge sizes of use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """Attention of one model; sizes from its published configuration."""

    name: str
    query_heads: int
    key_heads: int
    head_dim: int


LLAMA_3_8B = Model("Llama-3-8B", 32, 8, 128)
LLAMA_3_2_1B = Model("Llama-3.2-1B", 32, 8, 64)
PHI_3_MINI = Model("Phi-3-mini", 32, 32, 96)
MODELS = (LLAMA_3_8B, LLAMA_3_2_1B, PHI_3_MINI)
TINY = Model("tiny", 4, 2, 16)


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
    def flops(self) -> int:
        """Multiplications and additions of the two matrix products, over visible pairs."""
        prompt_pairs = self.N * (self.T - self.N) + self.N * (self.N + 1) // 2
        pairs = self.B * self.model.query_heads * (prompt_pairs + self.N * self.M)
        return 4 * pairs * self.model.head_dim

    def bytes_moved(self, element_size: int) -> int:
        """What must cross memory at least: every input once, the output once."""
        rows = self.B * self.model.query_heads * self.N
        prompt = 2 * self.B * self.model.key_heads * self.T
        knowledge = 2 * self.model.query_heads * self.M
        # Query and output: the benchmark passes one tensor as both queries.
        return (2 * rows + prompt + knowledge) * self.model.head_dim * element_size


def registry() -> Iterator[Shape]:
    """Prefill of a long prompt, of a question, and decode, over the sizes of knowledge that people have."""
    for model in MODELS:
        for N in (1024, 4096):
            yield Shape(model, "prefill", 1, N, N, 10_000)
        yield Shape(model, "question", 1, 48, 48, 10_000)
        for B, M in ((1, 1_000), (1, 10_000), (1, 100_000), (8, 10_000), (32, 10_000)):
            yield Shape(model, "decode", B, 1, 1024, M)


def tiny() -> Iterator[Shape]:
    """The same phases in milliseconds on a CPU: to test the code, not to measure."""
    yield Shape(TINY, "prefill", 2, 8, 8, 20)
    yield Shape(TINY, "question", 1, 3, 3, 20)
    yield Shape(TINY, "decode", 2, 1, 9, 20)
