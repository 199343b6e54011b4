"""The trainable part: key and value projections, and a query head for every knowledge layer."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from kblam.adapter.config import AdapterConfig
from kblam.adapter.files import adapter_folder, load_weights, read_config
from kblam.adapter.projected import ProjectedKnowledge
from kblam.adapter.projections import build_projector
from kblam.errors import KnowledgeError
from kblam_kernels.latent.projection import KEY_NORM_EPS


class KnowledgeAdapter(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="kblam",
    tags=["kblam", "knowledge-base"],
):
    """Turns sentence embeddings into knowledge tokens, and hidden states into knowledge queries.

    `save_pretrained(folder)` writes config.json and model.safetensors (adapter weights only);
    `from_pretrained(folder or hub name)` reads them.

    Args:
        config: shapes and switches.

    Attributes:
        key_projector, value_projector: (..., P) -> (..., S * Hq * D).
        query_heads: one bias-free Linear(hidden_size, Hq * D) per knowledge layer, keyed by str(layer); empty
            without `separate_query_head`.
    """

    def __init__(self, config: AdapterConfig) -> None:
        super().__init__()
        self.config = config
        self.key_projector = build_projector(config)
        self.value_projector = build_projector(config)
        width = config.num_heads * config.head_dim
        layers = config.knowledge_layers if config.separate_query_head else []
        self.query_heads = nn.ModuleDict(
            {str(layer): nn.Linear(config.hidden_size, width, bias=False) for layer in layers}
        )

    @classmethod
    def from_pretrained(  # type: ignore[override]  # the mixin takes the arguments of any class, this one its own
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        strict: bool = True,
        force_download: bool = False,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        revision: str | None = None,
    ) -> KnowledgeAdapter:
        """An adapter from a folder or the hub, on the CPU, in eval mode.

        In place of the mixin's own, which loads what names happen to match, prints, and may unpickle.

        Args:
            pretrained_model_name_or_path: a folder, or "user/name" on the hub. A path never reaches for the network.
            strict: False leaves weights that the file does not have as initialised.
            force_download, token, cache_dir, local_files_only, revision: as `huggingface_hub` takes them.

        Raises:
            AdapterFormatError: the files are missing, damaged, or their tensors do not fit the config.
            AdapterConfigError: the config contradicts itself, or is of a newer format.
        """
        folder = adapter_folder(
            pretrained_model_name_or_path,
            force_download=force_download,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            revision=revision,
        )
        adapter = cls(read_config(folder))
        load_weights(adapter, folder, strict=strict)
        return adapter.eval()

    def project_keys(self, embeddings: Tensor) -> Tensor:
        """LayerNorm(projection) over the whole S * Hq * D vector, no affine, eps 1e-5: (..., P) -> (..., out_dim)."""
        return F.layer_norm(self.key_projector(embeddings), (self.config.out_dim,), eps=KEY_NORM_EPS)

    def project_values(self, embeddings: Tensor) -> Tensor:
        """The value projection, not normalised: (..., P) -> (..., out_dim)."""
        return self.value_projector(embeddings)

    def project(
        self, key_embeddings: Tensor, value_embeddings: Tensor, dtype: torch.dtype | None = None
    ) -> ProjectedKnowledge:
        """Knowledge tokens of M triples.

        Args:
            key_embeddings, value_embeddings: (M, P) or (B, M, P), any floating dtype.
            dtype: of the result; None keeps the adapter's.

        Raises:
            KnowledgeError: if the embeddings do not have the adapter's width P.
        """
        for name, embeddings in (("key", key_embeddings), ("value", value_embeddings)):
            if embeddings.shape[-1] != self.config.embedding_dim:
                raise KnowledgeError(
                    f"{name} embeddings are {embeddings.shape[-1]} wide, the adapter takes P = "
                    f"{self.config.embedding_dim}; use the encoder it was trained with ({self.config.encoder})"
                )
        own = next(self.value_projector.parameters(), value_embeddings)
        keys = self.project_keys(key_embeddings.to(own.device, own.dtype))
        values = self.project_values(value_embeddings.to(own.device, own.dtype))
        projected = ProjectedKnowledge(keys, values, self.config)
        return projected if dtype is None else projected.to(dtype)

    def plain_query_head(self, layer: int) -> nn.Linear | None:
        """The query head of a knowledge layer where it is its weight and nothing else: no hook, no wrapper."""
        if not self.config.separate_query_head:
            return None
        head = self.query_heads[str(layer)]
        if type(head) is nn.Linear and head.bias is None and not head._forward_hooks and not head._forward_pre_hooks:
            return head
        return None

    def knowledge_query(self, layer: int, hidden_states: Tensor) -> Tensor | None:
        """r (B, Hq, N, D) of a knowledge layer from its hidden states (B, N, hidden); None without separate heads."""
        if not self.config.separate_query_head:
            return None
        heads = self.query_heads[str(layer)](hidden_states)
        B, N, _ = heads.shape
        if N == 1:
            return heads.view(B, self.config.num_heads, 1, self.config.head_dim)
        return heads.view(B, N, self.config.num_heads, self.config.head_dim).transpose(1, 2)

    def extra_repr(self) -> str:
        c = self.config
        return (
            f"P={c.embedding_dim}, layers={c.knowledge_layers}, slots={c.num_slots}, heads={c.num_heads}x{c.head_dim}"
        )
