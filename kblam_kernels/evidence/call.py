"""An evidence call as an object: knowledge scores, and the lse of a finished attention."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kblam_kernels.common.call import Call

# Tokens whose largest score bounds what each of them gets; that of the C++ kernels (`csrc/launch/mass.h`).
BLOCK = 128


def num_blocks(num_tokens: int) -> int:
    """Blocks of a list of tokens; the last may be short."""
    return -(-num_tokens // BLOCK)


@dataclass(frozen=True)
class EvidenceCall(Call):
    """Knowledge scores, and the lse of a finished attention. One formula serves both layouts (this folder's README).

    Args:
        rows: (B, Hq, N, W), the knowledge query, or for latents the absorbed one.
        key: (Hq, M, W), (B, Hq, M, W), or latents (M, W) in any storage dtype.
        norm, key_scale: float32 (M,), of latents; None is 1.
        constant: (B, Hq, N), of latents; None is 0.
        lse: (B, Hq, N), of the finished attention.
        bias: float32 (B or 1, M) or None.
        knowledge_range: int32 or int64 (B or 1, 2) or None.
        row_weight: (B, Hq, N), weight of a head and query in the sum; one of weight 0 is left out, whatever it holds.
        scale: of all scores.
        int8_products: the attention was allowed to multiply int8 latents as int8, and where it did its scores were
            rounded; only the C++ kernels do, so a call that they cannot serve is exact.
    """

    LEADING = "rows"
    KNOWLEDGE = "key"
    STRIDED = ("rows", "key")
    # Of latents, a key of rank 2, nothing gets a gradient: `interface` refuses it.
    DIFFERENTIABLE = ("rows", "key", "lse", "bias")
    RESULTS = ("mass",)
    GIVEN = {  # noqa: RUF012 - the base class says that it is one for all
        "rows": "knowledge_query or the projection's key_weight",
        "constant": "knowledge_query or the projection's key_bias",
        "key": "the latents' key",
        "bias": "knowledge_bias",
    }

    rows: Tensor
    key: Tensor
    norm: Tensor | None
    key_scale: Tensor | None
    constant: Tensor | None
    lse: Tensor
    bias: Tensor | None
    knowledge_range: Tensor | None
    row_weight: Tensor
    scale: float
    int8_products: bool = False

    def empty(self) -> tuple[Tensor]:
        return (self.lse.new_empty(self.rows.shape[0], self.num_tokens),)

    @property
    def is_latent(self) -> bool:
        """Whether all heads read one list of latents."""
        return self.key.dim() == 2

    @property
    def in_pairs(self) -> bool:
        return not self.is_latent
