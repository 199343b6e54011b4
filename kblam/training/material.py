"""What a run is made of: model, tokenizer, encoder, entities, and the vectors of all their texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kblam.adapter import AdapterConfig
from kblam.data.open_world import build_world
from kblam.data.properties import TYPED
from kblam.errors import TrainingError
from kblam.knowledge import Encoder, Triple, load_encoder
from kblam.knowledge.encoders import Progress
from kblam.models.loading import lasting_name, load_base, load_tokenizer
from kblam.models.prompt import PLAIN, template_of
from kblam.models.signature import signature_of
from kblam.training.batches import Texts
from kblam.training.calibration_data import CalibrationData, entities_of, some
from kblam.training.config import ENCODER, TrainingConfig
from kblam.training.language import trainable_base
from kblam.training.questions import Asked, Facts, draw_questions
from kblam.training.vectors import Vectors

# Knowledge layers by depth: retrieval is the encoder's at any depth, and values must still be read afterwards.
_DEPTHS = (0.47, 0.6, 0.73, 0.87)


@dataclass(frozen=True)
class Material:
    """Everything that a run needs and does not change.

    Args:
        model: frozen.
        texts: how questions and answers are written.
        encoder: of the sentence vectors.
        train, checks: facts to learn from, and facts for checks: held out of training, or the user's own, which it
            learns from too.
        asked: questions about `train`.
        own: whether `checks` are the user's own triples.
        vectors: of all texts of these.
        calibration: what the property head and the confidence are learned from.
        adapter_config: of the adapter that learns.
    """

    model: PreTrainedModel
    texts: Texts
    encoder: Encoder
    train: Facts
    checks: Facts
    asked: list[Asked]
    own: bool
    vectors: Vectors
    calibration: CalibrationData
    adapter_config: AdapterConfig


def gather(
    config: TrainingConfig,
    *,
    cache: Path,
    triples: Sequence[Triple] = (),
    encoder: Encoder | None = None,
    device: str | None = None,
    encoder_device: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
    check: Callable[[Facts, Encoder], None] = lambda facts, encoder: None,
) -> Material:
    """Loads the model and prepares the data.

    Args:
        cache: folder for sentence vectors.
        triples: the user's own; the adapter learns from them too, and the confidence is learned on them.
        encoder: of their knowledge base; None loads the one that the config names.
        device: where the model is loaded; None is cuda where there is one, else cpu.
        encoder_device: where the config's encoder computes; None is `device`. A base that is going to be sharded is
            loaded in memory, and texts are encoded on a GPU all the same.
        progress: told how many texts are encoded.
        say: told what a person should read before that.
        check: raises before that if these facts to learn from, or this encoder, will not do.

    Raises:
        ModelFolderError, EncoderUnavailableError: model or encoder cannot be loaded.
        AdapterConfigError: the config asks for what this model does not have, such as a layer; before the encoding.
        TrainingError: the model's tokenizer has no end token.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if config.on(device).bf16 else torch.float32
    model = trainable_base(load_base(config.model, dtype=dtype, device=device))
    tokenizer = load_tokenizer(config.model)
    if encoder is None:
        encoder = load_encoder(
            ENCODER if config.encoder is None else config.encoder, device=str(encoder_device or device)
        )
    prompt = template_of(tokenizer) or PLAIN if config.prompt is None else config.prompt
    adapter_config = _adapter_config(config, model, encoder, prompt)  # refuses what the model does not have
    world = build_world(config.seed, train_entities=config.train_entities, test_entities=0)
    kept = config.calibration_entities
    entities, held_out = world.train[:-kept], world.train[-kept:]
    triples = some(triples, config.seed, say)
    own = entities_of(triples)
    if own:
        entities, held_out = [*entities, *own], own
    train, held = Facts(entities), Facts(held_out)
    check(train, encoder)
    asked = draw_questions(train, config.retrieval_questions, config.seed)
    texts = [*train.key_texts, *held.key_texts, *train.values, *held.values, *(one.text for one in asked)]
    say(
        f"{len(train):,} facts to learn from, {len(held):,} for checks; encoding them and {len(asked):,} questions, "
        f"whose vectors are kept in {cache}"
    )
    vectors = Vectors(texts, encoder, cache, progress)
    calibration = CalibrationData.gather(
        encoder,
        cache,
        triples,
        questions=config.calibration_questions,
        property_questions=config.property_questions,
        seed=config.seed,
        progress=progress,
    )
    return Material(
        model=model,
        texts=Texts(
            tokenizer, prompt, config.answer, config.refusal, *_control_ids(model, tokenizer), copies=config.pointer
        ),
        encoder=encoder,
        train=train,
        checks=held,
        asked=asked,
        own=bool(own),
        vectors=vectors,
        calibration=calibration,
        adapter_config=adapter_config,
    )


def _adapter_config(config: TrainingConfig, model: PreTrainedModel, encoder: Encoder, prompt: str) -> AdapterConfig:
    count = model.config.get_text_config().num_hidden_layers
    layers = config.layers
    if layers is None:
        layers = tuple(sorted({min(count - 1, round(count * depth)) for depth in _DEPTHS}))
    return AdapterConfig.for_model(
        model.config,
        encoder.dimension,
        layers=layers,
        evidence_layer=layers[0] if config.evidence_layer is None else config.evidence_layer,
        question_head=config.question_head,
        question_hidden_dim=config.question_hidden_dim if config.question_head == "mlp" else 0,
        pointer=config.pointer,
        prompt=prompt,
        answer=config.answer,
        refusal=config.refusal,
        encoder=encoder.fingerprint,
        base_model=lasting_name(config.model),
        base_signature=signature_of(model),
        background=tuple(TYPED),
    )


def _control_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """(end, pad): what ends an answer when the model generates, and what fills rows."""
    generation: Any = model.generation_config
    end = generation.eos_token_id if generation is not None else None
    end = tokenizer.eos_token_id if end is None else end
    if isinstance(end, list | tuple):
        # The chat's own end of turn, where there are several.
        end = tokenizer.eos_token_id if tokenizer.eos_token_id in end else end[0]
    if end is None:
        raise TrainingError(f"the tokenizer of {tokenizer.name_or_path} has no end token, so answers could not end")
    pad = tokenizer.pad_token_id
    return int(end), int(end if pad is None else pad)
