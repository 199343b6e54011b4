"""The trainable part: key and value projections, and a query head for every knowledge layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn
from torch.nn import functional as F

from kblam.adapter.config import AdapterConfig
from kblam.adapter.files import (
    CONFIG_FILE,
    adapter_folder,
    check_weights_file,
    load_weights,
    read_config,
    save_weights,
    write_config,
)
from kblam.adapter.plain import ends_plainly, is_plain_linear
from kblam.adapter.projected import ProjectedKnowledge
from kblam.adapter.projections import build_projector, build_question_trunk
from kblam.adapter.property_head import PropertyHead
from kblam.errors import KnowledgeError
from kblam.whole.lasting import settle_folder, settle_names
from kblam.whole.unfinished import unfinished_folder
from kblam_kernels.latent.projection import KEY_NORM_EPS

_CARD = "README.md"


class KnowledgeAdapter(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="kblam",
    tags=["kblam", "knowledge-base"],
):
    """Turns sentence embeddings into knowledge tokens, and hidden states into knowledge queries.

    `save_pretrained(folder)` writes config.json and model.safetensors (adapter weights only), or raises `AdapterError`
    where they could not be read again; `from_pretrained(folder or hub name)` reads them. Weights that are tied (one
    projector for keys and values) stay tied.

    Args:
        config: shapes and switches.

    Attributes:
        key_projector, value_projector: (..., P) -> (..., S * Hq * D).
        query_heads: one bias-free Linear(hidden_size, Hq * D) per knowledge layer, keyed by str(layer); empty
            without `separate_query_head`.
        question_trunk: (B, P) -> (B, P), a `ResidualMLP` for an mlp `question_head`, or the identity.
        question_heads: one Linear(P, Hq * D) per knowledge layer, keyed by str(layer); empty without `question_head`.
        property_head: tells which property a question asks for; None without a `property_width`. Attention has no part
            in it.
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
        self.question_trunk = build_question_trunk(config)
        asking = layers if config.question_head is not None else []
        self.question_heads = nn.ModuleDict({str(layer): nn.Linear(config.embedding_dim, width) for layer in asking})
        self.property_head = (
            PropertyHead(
                config.embedding_dim,
                config.property_width,
                cosine=config.property_cosine,
                layers=len(config.property_layers),
            )
            if config.property_width
            else None
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
        """An adapter from a folder or the hub, in float32, on the CPU, in eval mode.

        In place of the mixin's own, which loads what names happen to match, prints, and may unpickle.

        Args:
            pretrained_model_name_or_path: a folder, or "user/name" on the hub. A path never reaches for the network.
            strict: False leaves weights that the file does not have as initialised.
            force_download, token, cache_dir, local_files_only, revision: as `huggingface_hub` takes them.

        Raises:
            AdapterFormatError: the files are missing, damaged, their tensors do not fit the config, or are not finite.
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
        config = read_config(folder)
        # Before there is memory for what a config alone asks for.
        check_weights_file(cls._without_memory(config), folder, strict=strict)
        # Engines set torch's default dtype and device to the model's, and weights would be rounded to that.
        with torch.device("cpu"):
            adapter = cls(config).float()
        load_weights(adapter, folder, strict=strict)
        return adapter.eval()

    @classmethod
    def _without_memory(cls, config: AdapterConfig) -> KnowledgeAdapter:
        """Names and shapes of an adapter."""
        with torch.device("meta"):
            return cls(config)

    def save_pretrained(
        self,
        save_directory: str | Path,
        *,
        config: Any = None,
        repo_id: str | None = None,
        push_to_hub: bool = False,
        model_card_kwargs: dict[str, Any] | None = None,
        **push_to_hub_kwargs: Any,
    ) -> str | None:
        """As the hub's mixin has it, but an adapter that is there stays until the new one is written whole.

        Raises:
            AdapterError: it could not be loaded again.
            OSError, SafetensorError: it cannot be written.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        with unfinished_folder(folder / "adapter") as unfinished:
            super().save_pretrained(unfinished, config=config, model_card_kwargs=model_card_kwargs)
            settle_folder(unfinished, folder)
            # The config last: it says of what the weights are.
            for file in sorted(unfinished.iterdir(), key=lambda file: file.name == CONFIG_FILE):
                if file.name != _CARD or not (folder / _CARD).exists():  # a card may have been written by hand
                    file.replace(folder / file.name)
            settle_names(folder)
        if not push_to_hub:
            return None
        sent: str = self.push_to_hub(
            repo_id or folder.name, config=config, model_card_kwargs=model_card_kwargs, **push_to_hub_kwargs
        )
        return sent

    def _save_pretrained(self, save_directory: Path) -> None:
        save_weights(self, self._without_memory(self.config), save_directory)
        write_config(self.config, save_directory)  # as it is now: the mixin would write the one that it was made with

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
        keys = self.project_keys(_as_read_by(self.key_projector, key_embeddings))
        values = self.project_values(_as_read_by(self.value_projector, value_embeddings))
        # Under CUDA autocast LayerNorm gives float32 whatever it reads, and the values come in half precision.
        made = dtype or torch.promote_types(keys.dtype, values.dtype)
        return ProjectedKnowledge(keys.to(made), values.to(made), self.config)

    def plain_query_head(self, layer: int) -> nn.Linear | None:
        """The query head of a knowledge layer where it is its weight and nothing else: no hook, no wrapper."""
        if not self.config.separate_query_head:
            return None
        head = self.query_heads[str(layer)]
        return cast(nn.Linear, head) if self.config.question_head is None and _is_its_weight(head) else None

    @property
    def is_absorbable(self) -> bool:
        """Whether both projectors end in a linear layer that is its weight alone, so that there are latents.

        Not with the identity, and not where LoRA, a hook or a parametrization adds to that layer.
        """
        return ends_plainly(self.key_projector) and ends_plainly(self.value_projector)

    def question_part(self, layer: int, question: Tensor) -> Tensor:
        """What the question adds to every knowledge query of its row: (B, P) sentence vectors -> (B, Hq * D)."""
        head = self.question_heads[str(layer)]
        part: Tensor = head(_as_read_by(head, self.question_trunk(_as_read_by(self.question_trunk, question))))
        return part

    def knowledge_query(
        self,
        layer: int,
        hidden_states: Tensor,
        question: Tensor | None = None,
        stand_in: Callable[[Tensor], Tensor] | None = None,
        norm: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor | None:
        """The knowledge query of a layer; None without separate heads.

        r = norm(W_h h), or with a `question_head` W_h h plus what the question adds, the same at every position of its
        row. The norm is for heads that start as a copy of the model's own. Of that sum it would take the length, which
        is the gain and the offset that training gave the scores; and W_h starts at zero then, where a norm's gradient
        is a thousand times too large.

        Args:
            hidden_states: (B, N, hidden), the input of the layer's attention.
            question: `question_part` of the layer, (B, Hq * D); None without a question head.
            stand_in: computes W_h h in place of the layer's own weight, (B, N, hidden) -> (B, N, Hq * D).
            norm: what the base model's queries go through, head by head, (..., D) -> (..., D).

        Returns:
            (B, Hq, N, D) in the dtype of hidden_states.
        """
        if not self.config.separate_query_head:
            return None
        head = self.query_heads[str(layer)]
        # Weights in training may be wider than a frozen base model's hidden states.
        if stand_in is not None:
            heads = stand_in(hidden_states)
        elif _is_its_weight(head):
            heads = F.linear(hidden_states, cast(nn.Linear, head).weight.to(hidden_states.dtype))
        else:
            heads = head(hidden_states)
        B, N, _ = heads.shape
        H, D = self.config.num_heads, self.config.head_dim
        query = heads.view(B, H, 1, D) if N == 1 else heads.view(B, N, H, D).transpose(1, 2)
        if question is not None:
            return query + question.to(query.dtype).unflatten(-1, (H, 1, D))
        return query if norm is None else norm(query)

    def extra_repr(self) -> str:
        c = self.config
        return (
            f"P={c.embedding_dim}, layers={c.knowledge_layers}, slots={c.num_slots}, heads={c.num_heads}x{c.head_dim}"
        )


def _is_its_weight(head: nn.Module) -> bool:
    return is_plain_linear(head) and head.bias is None


def _as_read_by(module: nn.Module, vectors: Tensor) -> Tensor:
    """Vectors on the device and in the dtype of a module's weights; as they are for a module without any."""
    own = next(module.parameters(), None)
    if own is None:
        # Quantised layers keep their weights packed, and read float32. To look for those would be `state_dict`, which a
        # compiler does not always trace.
        return vectors if isinstance(module, nn.Identity) else vectors.float()
    return vectors.to(own.device, own.dtype)
