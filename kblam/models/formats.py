"""What a model keeps of each triple on its device: latents for all layers, keys and values of each, or both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from kblam.adapter import KnowledgeAdapter
from kblam.errors import KnowledgeError
from kblam.knowledge.rows import RowFormat
from kblam_kernels import DenseKnowledge, LatentKnowledge
from kblam_kernels.knowledge import SCALED_DTYPES, dequantise
from kblam_kernels.latent import absorb, narrowed, quantise

# "auto": see `storage_dtype`.
STORAGE: dict[str, torch.dtype | None] = {
    "auto": None,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "int8": torch.int8,
    "float8_e4m3fn": torch.float8_e4m3fn,
}


def latent_width(adapter: KnowledgeAdapter, storage: torch.dtype) -> int:
    """P of the latents: that of the embeddings, or for an MLP that of its last hidden layer.

    An adapter whose projections have fewer outputs (few knowledge layers of a small model) has latents of so many
    numbers: what the projections see. The exception is float16 with a linear adapter: the store already holds those
    embeddings in float16, and projecting would add rounding.
    """
    config = adapter.config
    if config.projector != "mlp":
        return config.embedding_dim if storage == torch.float16 else min(config.embedding_dim, config.out_dim)
    return min(config.mlp_hidden_dim, config.out_dim)


def check_storage(storage: str) -> None:
    """Raises KnowledgeError if `storage` is not a name this module knows."""
    if storage not in STORAGE:
        raise KnowledgeError(f"storage must be one of {', '.join(STORAGE)}; got {storage!r}")


def storage_dtype(storage: str, adapter: KnowledgeAdapter, dtype: torch.dtype) -> torch.dtype:
    """The dtype of stored latents for a model of `dtype`.

    "auto" is the model's dtype, except float16 for a float32 model with a linear adapter: its latents are the
    embeddings, which the knowledge base already has in float16.

    Raises:
        KnowledgeError: if the kernels do not read latents of that dtype under this model.
    """
    check_storage(storage)
    chosen = STORAGE[storage]
    if chosen is None:
        return torch.float16 if dtype == torch.float32 and adapter.config.projector == "linear" else dtype
    if chosen == torch.float32 != dtype:
        raise KnowledgeError(f"storage 'float32' is for float32 models, this one is {dtype}; use 'auto' or 'float16'")
    return chosen


@dataclass(frozen=True)
class Joined:
    """Several formats side by side; no name occurs in two of them."""

    parts: tuple[RowFormat, ...]

    def allocate(self, rows: int) -> dict[str, Tensor]:
        return {name: tensor for part in self.parts for name, tensor in part.allocate(rows).items()}

    def encode(self, key: Tensor, value: Tensor) -> dict[str, Tensor]:
        return {name: tensor for part in self.parts for name, tensor in part.encode(key, value).items()}


class DenseFormat:
    """Keys and values of every knowledge layer, projected once.

    Args:
        adapter: projects the embeddings.
        dtype, device: of the model.
    """

    def __init__(self, adapter: KnowledgeAdapter, dtype: torch.dtype, device: torch.device) -> None:
        self.adapter, self.dtype, self.device = adapter, dtype, device

    def allocate(self, rows: int) -> dict[str, Tensor]:
        config = self.adapter.config
        # Zeros, not garbage: an unused row's score is finite and its weight exactly 0. Memory is (Hq, rows, D), as the
        # kernels read it; the view has the rows first.
        return {
            name: torch.zeros(config.num_heads, rows, config.head_dim, dtype=self.dtype, device=self.device).transpose(
                0, 1
            )
            for layer in config.knowledge_layers
            for name in (f"dense key {layer}", f"dense value {layer}")
        }

    @torch.no_grad()
    def encode(self, key: Tensor, value: Tensor) -> dict[str, Tensor]:
        # Projectors without weights compute where the vectors are.
        projected = self.adapter.project(key, value, dtype=self.dtype).to(device=self.device)
        encoded = {}
        for layer in self.adapter.config.knowledge_layers:
            dense = projected.layer(layer)
            encoded[f"dense key {layer}"] = dense.key.transpose(0, 1)
            encoded[f"dense value {layer}"] = dense.value.transpose(0, 1)
        return encoded

    def layer(self, layer: int, buffers: dict[str, Tensor]) -> DenseKnowledge:
        """One layer's keys and values, (Hq, capacity, D)."""
        return DenseKnowledge(
            buffers[f"dense key {layer}"].transpose(0, 1), buffers[f"dense value {layer}"].transpose(0, 1)
        )


class LatentFormat:
    """Encoder latents, one copy for all layers, with the LayerNorm scalar of each key; `latent_width` wide.

    Args:
        adapter: taken apart here, with its present weights.
        dtype, device: of the model.
        storage: dtype of the latents.
    """

    def __init__(
        self, adapter: KnowledgeAdapter, dtype: torch.dtype, device: torch.device, storage: torch.dtype
    ) -> None:
        config = adapter.config
        self.device, self.storage, self.width = device, storage, latent_width(adapter, storage)
        self._norm_dtype = torch.float64 if dtype == torch.float64 else torch.float32
        self._hidden_key, last_key = _split(adapter.key_projector)
        self._hidden_value, last_value = _split(adapter.value_projector)
        with torch.no_grad():
            key_weight, self._key_basis = self._narrow(last_key)
            value_weight, self._value_basis = self._narrow(last_value)
            self._absorbed = absorb(
                # Those of a moment, which get no gradient: a view of a parameter would ask for one.
                *(weight.detach().to(device) for weight in (key_weight, last_key.bias, value_weight, last_value.bias)),
                num_slots=config.num_slots,
                num_heads=config.num_heads,
                head_dim=config.head_dim,
                dtype=dtype,
            )
        self._slots = {layer: config.slot_of(layer) for layer in config.knowledge_layers}

    @property
    def tensors(self) -> list[Tensor]:
        """What it computes with, beside the adapter's own weights."""
        norm, parts = self._absorbed.key_norm, ("key_weight", "key_bias", "value_weight", "value_bias")
        slots = [getattr(slot, part) for slot in self._absorbed.slots for part in parts]
        bases = [basis for basis in (self._key_basis, self._value_basis) if basis is not None]
        return [*bases, norm.factor, norm.offset, *slots]

    def _narrow(self, last: nn.Linear) -> tuple[Tensor, Tensor | None]:
        """The weight that reads the latents, and the map from embeddings to latents (None if these are the same)."""
        if last.in_features == self.width:
            return last.weight, None
        weight, basis = narrowed(last.weight)
        return weight, basis.to(self.device, self._norm_dtype)

    def allocate(self, rows: int) -> dict[str, Tensor]:
        shape, device = (rows, self.width), self.device
        buffers = {name: torch.zeros(shape, dtype=self.storage, device=device) for name in ("key", "value")}
        buffers["norm"] = torch.zeros(rows, dtype=self._norm_dtype, device=device)
        if self.storage in SCALED_DTYPES:
            buffers |= {
                name: torch.zeros(rows, dtype=torch.float32, device=device) for name in ("key scale", "value scale")
            }
        return buffers

    @torch.no_grad()
    def encode(self, key: Tensor, value: Tensor) -> dict[str, Tensor]:
        key = _seen(self._key_basis, _hidden(self._hidden_key, key).to(self.device))
        value = _seen(self._value_basis, _hidden(self._hidden_value, value).to(self.device))
        if self.storage not in SCALED_DTYPES:
            key, value = key.to(self.storage), value.to(self.storage)
            return {"key": key, "value": value, "norm": self._absorbed.key_norm(key.to(self._norm_dtype))}
        stored_key, key_scale = quantise(key, self.storage)
        stored_value, value_scale = quantise(value, self.storage)
        # The norm of the key as stored: after rounding, keys are still exactly normalised.
        norm = self._absorbed.key_norm(dequantise(stored_key, key_scale, self._norm_dtype))
        return {
            "key": stored_key,
            "value": stored_value,
            "norm": norm,
            "key scale": key_scale,
            "value scale": value_scale,
        }

    def layer(self, layer: int, buffers: dict[str, Tensor]) -> LatentKnowledge:
        """The latents as one layer reads them; rows are shared by all layers."""
        return LatentKnowledge(
            buffers["key"],
            buffers["value"],
            buffers["norm"],
            self._absorbed.slots[self._slots[layer]],
            buffers.get("key scale"),
            buffers.get("value scale"),
        )


def _split(projector: nn.Module) -> tuple[nn.Module | None, nn.Linear]:
    """The layers before an adapter's last linear layer (None if there are none), and that layer."""
    if isinstance(projector, nn.Sequential):
        return projector[:-1], cast(nn.Linear, projector[-1])  # see KnowledgeAdapter.is_absorbable
    return None, cast(nn.Linear, projector)


def _hidden(layers: nn.Module | None, vectors: Tensor) -> Tensor:
    """The latents of embeddings; with a linear adapter, the embeddings themselves."""
    if layers is None:
        return vectors
    own = next(layers.parameters(), vectors)
    hidden: Tensor = layers(vectors.to(own.device, own.dtype))
    return hidden


def _seen(basis: Tensor | None, vectors: Tensor) -> Tensor:
    """The part of the latents that the projections see."""
    return vectors if basis is None else vectors.to(basis.dtype) @ basis
