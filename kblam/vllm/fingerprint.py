"""Whether the model that vLLM has loaded is the one that an adapter was trained for.

vLLM stores the same matrices otherwise: queries, keys and values as one, and with tensor parallelism a part in each
worker. What a matrix makes of the vector of signs is put together again here, and compared as `attach` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from vllm.distributed import (
    get_tensor_model_parallel_rank,
    get_tensor_model_parallel_world_size,
    tensor_model_parallel_all_gather,
    tensor_model_parallel_all_reduce,
)
from vllm.logger import init_logger
from vllm.model_executor.layers.linear import UnquantizedLinearMethod

from kblam.adapter import AdapterConfig
from kblam.errors import EngineError, UnsupportedModelError
from kblam.models.checks import check_signature
from kblam.models.signature import sampled_tokens, signature_from, signs
from kblam.vllm.families import ServedFamily

logger = init_logger(__name__)


@torch.no_grad()
def check_base(model: Any, family: ServedFamily, config: AdapterConfig, name: str) -> None:
    """Checks that a model was loaded with the weights that an adapter was trained on, where its config says which.

    Args:
        model: of vLLM, with its weights as they were read.
        family: of it.
        config: of the adapter.
        name: of the checkpoint, for the message.

    Raises:
        EngineError: it has other weights.
    """
    if config.base_signature is None:
        return
    layers = model.model.layers
    if not isinstance(layers[0].self_attn.qkv_proj.quant_method, UnquantizedLinearMethod):
        logger.warning(
            "The weights are quantised, so kblam cannot tell whether its adapter was trained for this model."
        )
        return
    images = [list(_of_layer(layer, family)) for layer in layers]
    # As the checkpoint's own classes list them; of the middle layer's attention the first and the last count.
    attention = images[len(images) // 2][: 2 if family.merged else 4]
    if not model.config.tie_word_embeddings:
        head = _sum_of_columns(model.lm_head.weight)
        images.append([head[sampled_tokens(model.config.vocab_size)]])
    embeddings = model.model.embed_tokens
    rows = embeddings(sampled_tokens(model.config.vocab_size).to(embeddings.weight.device)).float().cpu()
    embedded = rows @ signs(rows.shape[1])
    try:
        found = signature_from(type(model).__name__, embedded, attention[0], attention[-1], images)
        check_signature(config, found, name)
    except UnsupportedModelError as error:
        raise EngineError(str(error)) from error


def _of_layer(layer: Any, family: ServedFamily) -> Iterator[Tensor]:
    """Every matrix of a layer times the signs, in the order of the checkpoint's classes."""
    attention, mlp = layer.self_attn, layer.mlp
    query, key, value = _of_heads(attention)
    output = _sum_of_rows(attention.o_proj)
    gate, up = (_gathered(part) for part in _image(mlp.gate_up_proj).chunk(2))
    if family.merged:
        yield from (output, torch.cat([query, key, value]), torch.cat([gate, up]))
    else:
        yield from (query, key, value, output, gate, up)
    yield _sum_of_rows(mlp.down_proj)


def _of_heads(attention: Any) -> tuple[Tensor, Tensor, Tensor]:
    query, key, value = _image(attention.qkv_proj).split([attention.q_size, attention.kv_size, attention.kv_size])
    # With more workers than key heads, neighbours have the same one.
    copies = max(1, get_tensor_model_parallel_world_size() // attention.total_num_kv_heads)
    every = (_gathered(part).view(-1, copies, attention.kv_size)[:, 0].flatten() for part in (key, value))
    return (_gathered(query), *every)  # type: ignore[return-value]


def _image(linear: Any) -> Tensor:
    """Of the rows that this worker has."""
    return _sum_of_own_columns(linear.weight, linear.bias)


def _sum_of_own_columns(weight: Tensor, bias: Tensor | None) -> Tensor:
    image = weight @ signs(weight.shape[1]).to(weight)
    return image if bias is None else image + bias


def _sum_of_columns(weight: Tensor) -> Tensor:
    return _gathered(_sum_of_own_columns(weight, None))


def _sum_of_rows(linear: Any) -> Tensor:
    """Of a matrix whose columns are shared out."""
    width, rank = linear.weight.shape[1], get_tensor_model_parallel_rank()
    own = signs(width * get_tensor_model_parallel_world_size())[rank * width : (rank + 1) * width]
    image = tensor_model_parallel_all_reduce(linear.weight @ own.to(linear.weight))
    image = image if linear.bias is None else image + linear.bias
    return image.float().cpu()


def _gathered(image: Tensor) -> Tensor:
    return tensor_model_parallel_all_gather(image, dim=0).float().cpu()
