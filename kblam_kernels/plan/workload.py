"""What a plan is made for: the sizes of one knowledge base under one model, and a few real models' sizes."""

from __future__ import annotations

from dataclasses import dataclass

from kblam_kernels.errors import switch, whole


@dataclass(frozen=True)
class Workload:
    """One knowledge base under one model.

    Args:
        triples: M.
        width: P, numbers in a latent.
        num_heads, head_dim: Hq, D of the model.
        layers: how many layers see knowledge.
        batch: B, sequences at a time.
        prefill_tokens: N of a prefill; a decode step has one new token a sequence.
        element_size: bytes of a number in the model's dtype.
        latent_size: bytes of a number in a stored latent: 2, or 1 for int8 and float8.
        absorbable: False for an adapter whose projections are not linear at the end: it has no latents.

    Raises:
        UnsupportedInputError: if a size is no whole number, or not positive (`triples` may be 0), or `absorbable` is
            neither True nor False.
    """

    triples: int
    width: int
    num_heads: int
    head_dim: int
    layers: int
    batch: int = 1
    prefill_tokens: int = 512
    element_size: int = 2
    latent_size: int = 2
    absorbable: bool = True

    def __post_init__(self) -> None:
        names = ("width", "num_heads", "head_dim", "layers", "batch", "prefill_tokens", "element_size", "latent_size")
        for name in names:
            whole(name, getattr(self, name))
        whole("triples", self.triples, least=0)
        switch("absorbable", self.absorbable)

    @property
    def latent_bytes(self) -> int:
        """The knowledge base as latents: one copy for all layers, with norms and, if quantised, scales."""
        scalars = 4 if self.latent_size > 1 else 12
        return self.triples * (2 * self.width * self.latent_size + scalars)

    @property
    def dense_layer_bytes(self) -> int:
        """Keys and values of one layer."""
        return self.triples * 2 * self.num_heads * self.head_dim * self.element_size

    @property
    def dense_bytes(self) -> int:
        """Keys and values of every knowledge layer."""
        return self.layers * self.dense_layer_bytes


@dataclass(frozen=True)
class ModelSize:
    """A model of the command line: sizes from its published configuration, adapter at every third layer."""

    title: str
    num_heads: int
    num_key_heads: int
    head_dim: int
    num_layers: int
    parameters: int

    def workload(self, triples: int, *, width: int = 384, batch: int = 1, prefill_tokens: int = 512) -> Workload:
        """The model in a 16-bit dtype with latents of MiniLM's width, unless told otherwise."""
        layers = len(range(0, self.num_layers, 3))
        return Workload(triples, width, self.num_heads, self.head_dim, layers, batch, prefill_tokens)


MODELS: dict[str, ModelSize] = {
    "llama-3-8b": ModelSize("Llama-3-8B", 32, 8, 128, 32, 8_030_000_000),
    "llama-3.2-1b": ModelSize("Llama-3.2-1B", 32, 8, 64, 16, 1_240_000_000),
    "phi-3-mini": ModelSize("Phi-3-mini", 32, 32, 96, 32, 3_820_000_000),
    "qwen2.5-0.5b": ModelSize("Qwen2.5-0.5B", 14, 2, 64, 24, 494_000_000),
    "smollm2-135m": ModelSize("SmolLM2-135M", 9, 3, 64, 30, 135_000_000),
}
