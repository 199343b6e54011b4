"""Checks that an adapter fits a model, and that knowledge fits both, with the messages in one place."""

from __future__ import annotations

from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kblam.adapter import AdapterConfig, KnowledgeAdapter, ProjectedKnowledge
from kblam.adapter.files import read_config
from kblam.adapter.signature import Signature
from kblam.errors import (
    AdapterConfigError,
    AdapterError,
    EncoderMismatchError,
    KnowledgeError,
    UnsupportedModelError,
    argument,
)
from kblam.knowledge import KnowledgeBase
from kblam.models.signature import SAME_MATRIX, SAME_MODEL, other_layer, signature_of, similarity
from kblam.models.source import KnowledgeSource
from kblam.shipped import SMOLLM2_ADAPTER, smollm2_is_shipped

# What layers compute with.
_COMPUTED = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


def a_model(given: Any) -> PreTrainedModel:
    """The model that was given; of a compiled one, or one that PEFT has wrapped, the model inside.

    Raises:
        UnsupportedModelError: it is none of transformers'.
    """
    model: Any = getattr(given, "_orig_mod", given) if isinstance(given, nn.Module) else given
    if not isinstance(model, nn.Module) or not all(hasattr(model, name) for name in ("config", "get_decoder")):
        inside = getattr(model, "module", None)
        fix = "attach to its .module" if isinstance(inside, nn.Module) else "load one with AutoModelForCausalLM"
        kind = given.__name__ if isinstance(given, type) else type(given).__name__
        raise UnsupportedModelError(
            f"an adapter is attached to a causal language model of transformers, not to {kind}; {fix}"
        )
    if isinstance(model, PreTrainedModel):
        return model
    # PEFT's wrappers pass on what they lack, and have a `generate` that takes anything and calls the one inside.
    decoder = cast(Any, model).get_decoder()
    inside = (part for part in model.modules() if isinstance(part, PreTrainedModel) and part.get_decoder() is decoder)
    return cast(PreTrainedModel, next(inside, model))


def check_adapter(adapter: Any) -> None:
    """Checks that it is one.

    Raises:
        AdapterError: if not.
    """
    if not isinstance(adapter, nn.Module) or not hasattr(adapter, "query_heads"):
        raise AdapterError(
            f"adapter must be a KnowledgeAdapter, got {type(adapter).__name__}; load a folder with "
            "KnowledgeAdapter.from_pretrained(FOLDER)"
        )


def check_switches(**given: Any) -> None:
    """Checks that options are True or False.

    Raises:
        KnowledgeError: if not.
    """
    for name, value in given.items():
        if not isinstance(value, bool):
            raise KnowledgeError(f"{name} must be True or False; got {value!r}")


def check_fit(model: PreTrainedModel, config: AdapterConfig, num_layers: int) -> None:
    """Checks that the adapter was made for this model's shapes.

    Raises:
        UnsupportedModelError: if not, or if the model has no one shape of heads.
    """
    try:
        needed = AdapterConfig.for_model(model.config, config.embedding_dim)
    except AdapterConfigError as error:
        raise UnsupportedModelError(str(error)) from error
    for name in ("num_layers", "hidden_size", "num_heads", "head_dim"):
        has = num_layers if name == "num_layers" else getattr(needed, name)
        if getattr(config, name) != has:
            raise UnsupportedModelError(
                f"the adapter was made for {name}={getattr(config, name)}, this model has {has} "
                f"(adapter's base model: {config.base_model or 'not recorded'})"
            )


def check_weights(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Checks that the adapter was trained on this model's weights, in whatever precision, where its config says which.

    Raises:
        UnsupportedModelError: if not.
    """
    if config.base_signature is not None:
        found = signature_of(model, layers=bool(config.base_signature.layers))
        check_signature(config, found, model.config._name_or_path)


def check_signature(config: AdapterConfig, found: Signature, name: str | None) -> None:
    """Checks that the weights of a model, called `name`, are those that the adapter was trained on.

    Raises:
        UnsupportedModelError: if not.
    """
    if config.base_signature is None:
        return
    alike = similarity(config.base_signature, found)
    other = other_layer(config.base_signature, found)
    if alike >= SAME_MODEL and other is None:  # NaN is not either
        return
    least, where = (SAME_MODEL, "")
    if other is not None:
        (layer, alike), least = other, SAME_MATRIX
        where = " in its head" if layer == config.num_layers else f" in layer {layer}"
    raise UnsupportedModelError(
        f"the adapter was trained for {config.base_model or 'a model that it does not name'}, and this model, "
        f"{name or 'loaded without a name'}, has other weights{where} (similarity {alike:.2f}; "
        f"the same model has {least} or more in any precision); load the adapter's model, or train an adapter for this "
        "one"
    )


def check_encoder(config: AdapterConfig, knowledge_base: KnowledgeBase) -> None:
    """Checks that adapter and knowledge base use the same encoder.

    Raises:
        EncoderMismatchError: if not: their vectors mean different things.
    """
    if config.encoder is not None and config.encoder != knowledge_base.fingerprint:
        rebuild = "rebuild the knowledge base with the adapter's encoder"
        fix = argument(rebuild, f"{rebuild}, or without --kb name that with --encoder", ("eval",), rebuild)
        raise EncoderMismatchError(
            f"the adapter was trained with encoder {called(config.encoder)}, the knowledge base was built with "
            f"{called(knowledge_base.fingerprint, knowledge_base.encoder_spec)}; {fix}"
        )


def called(fingerprint: str, spec: str | None = None) -> str:
    """An encoder for a reader of a message: its fingerprint, and how it is named where that is known.

    Args:
        spec: as `load_encoder` takes it. An adapter does not record it; that of the shipped adapter is known.
    """
    if spec is None and smollm2_is_shipped() and read_config(SMOLLM2_ADAPTER).encoder == fingerprint:
        spec = "minilm"
    return repr(fingerprint) if spec is None else f"{spec} ({fingerprint!r})"


def check_loaded(adapter: KnowledgeAdapter) -> None:
    """Checks that an adapter has its weights.

    Raises:
        AdapterError: if some are on the meta device, or of a dtype that nothing is computed in.
    """
    if lost := [name for name, parameter in adapter.named_parameters() if parameter.is_meta]:
        raise AdapterError(
            f"the adapter's weights are not loaded (meta device): {', '.join(lost[:4])}; load it with "
            "KnowledgeAdapter.from_pretrained"
        )
    for name, parameter in adapter.named_parameters():
        if parameter.dtype not in _COMPUTED:
            raise AdapterError(
                f"the adapter's {name} is {parameter.dtype}, which nothing is computed in; call adapter.float()"
            )


def check_knowledge(
    model: PreTrainedModel, device: torch.device, config: AdapterConfig, source: KnowledgeSource
) -> None:
    """Checks that it is knowledge, its dtype and device are those the model computes with, its heads the adapter's.

    Raises:
        KnowledgeError: if not.
    """
    if not all(hasattr(source, name) for name in ("dtype", "device", "layer")):
        raise KnowledgeError(
            f"knowledge is a KnowledgeBase, ProjectedKnowledge or ResidentKnowledge; got {type(source).__name__}: open "
            "a file with KnowledgeBase.open(path), or make one with KnowledgeBase.from_triples(triples, encoder)"
        )
    if source.dtype != model.dtype or source.device != device:
        raise KnowledgeError(
            f"knowledge is {source.dtype} on {source.device}, the model {model.dtype} on {device}; "
            "convert it with .to(dtype=model.dtype, device=attachment.device)"
        )
    if isinstance(source, ProjectedKnowledge) and source.config.knowledge_layers != config.knowledge_layers:
        raise KnowledgeError(
            f"knowledge was projected for layers {source.config.knowledge_layers}, the attached adapter has "
            f"{config.knowledge_layers}; project it with the attached adapter"
        )
    first = source.layer(config.knowledge_layers[0])
    if (first.num_heads, first.head_dim) != (config.num_heads, config.head_dim):
        raise KnowledgeError(
            f"knowledge has {first.num_heads} heads of width {first.head_dim}, the attached adapter "
            f"{config.num_heads} of {config.head_dim}; project it with the attached adapter"
        )


def check_options(source: KnowledgeSource, bias: Tensor | float, knowledge_range: Tensor | None) -> None:
    """Checks a bias over triples, and shapes, dtypes and devices of ranges; their batch is known only later.

    Raises:
        KnowledgeError: if one does not fit.
    """
    M, device = source.num_triples, source.device
    if not isinstance(bias, (Tensor, Real)):
        raise KnowledgeError(f"bias must be a number or a tensor; got {type(bias).__name__}")
    if not isinstance(knowledge_range, (Tensor, type(None))):
        raise KnowledgeError(f"knowledge_range must be an int32 tensor (B, 2); got {type(knowledge_range).__name__}")
    if isinstance(bias, Tensor):
        if bias.dim() > 2 or (bias.dim() > 0 and bias.shape[-1] != M):
            raise KnowledgeError(
                f"bias must be a number, (), (M,) or (B, M) with M = {M} triples; got {tuple(bias.shape)}"
            )
        if bias.dtype != torch.float32 or bias.device != device:
            raise KnowledgeError(f"bias must be float32 on {device}; got {bias.dtype} on {bias.device}")
        if (bias.isnan() | (bias == torch.inf)).any():
            raise KnowledgeError("bias must be finite, or -inf where it hides a triple; it holds NaN or infinity")
    if knowledge_range is not None:
        if knowledge_range.dim() != 2 or knowledge_range.shape[1] != 2:
            raise KnowledgeError(
                f"knowledge_range must be (B, 2), [start, end) for each row; got {tuple(knowledge_range.shape)}"
            )
        if knowledge_range.dtype not in (torch.int32, torch.int64) or knowledge_range.device != device:
            raise KnowledgeError(
                f"knowledge_range must be int32 on {device}; got {knowledge_range.dtype} on {knowledge_range.device}"
            )


def check_question(config: AdapterConfig, source: KnowledgeSource, question: Tensor | None) -> None:
    """Checks that an adapter with a question head gets the vectors of the questions, and one without gets none.

    Raises:
        KnowledgeError: if not.
    """
    if config.question_head is None:
        if question is not None:
            raise KnowledgeError("this adapter has no question_head, so it cannot use question=; leave it out")
        return
    if question is None:
        raise KnowledgeError(
            "this adapter's queries need the question: pass question=, its text or a list with one for each batch row; "
            "or their float32 (B, P) sentence vectors from the knowledge base's encoder (`Session.question_vectors`)"
        )
    if question.dim() != 2 or question.shape[1] != config.embedding_dim:
        raise KnowledgeError(
            f"question must be (B, P) with P = {config.embedding_dim}, the width of the adapter's encoder; "
            f"got {tuple(question.shape)}"
        )
    if question.dtype != torch.float32 or question.device != source.device:
        raise KnowledgeError(f"question must be float32 on {source.device}; got {question.dtype} on {question.device}")
    if not question.isfinite().all():
        raise KnowledgeError("question must be finite; it holds NaN or infinity, so no triple has a weight")
