"""The end of a training run, and all of `kblam calibrate`: a property head and a confidence for an adapter."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kblam.adapter import KnowledgeAdapter
from kblam.data.properties import TYPED
from kblam.knowledge import Encoder, Triple
from kblam.knowledge.encoders import Progress
from kblam.models import attach, detach
from kblam.models.checks import check_fit, check_weights
from kblam.models.families import attention_modules, family_of
from kblam.models.loading import load_base, load_tokenizer
from kblam.models.prompt import question_ids
from kblam.training.calibrate import Calibration, calibrate
from kblam.training.calibration_data import CalibrationData, some
from kblam.training.config import CALIBRATION_QUESTIONS
from kblam.training.properties import QUESTIONS, STEPS, learn_head, with_head
from kblam_kernels.tools.env import quick_dtype


def recalibrate(
    adapter: KnowledgeAdapter,
    base: str,
    encoder: Encoder,
    *,
    cache: Path,
    triples: Sequence[Triple] = (),
    questions: int = CALIBRATION_QUESTIONS,
    property_questions: int = QUESTIONS,
    property_steps: int = STEPS,
    seed: int = 0,
    device: str | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[KnowledgeAdapter, Calibration]:
    """The same adapter with a confidence for a knowledge base.

    Args:
        adapter: of the model.
        base: the model it was trained for.
        encoder: of the knowledge base.
        cache: folder for sentence vectors.
        triples: what questions are made of; none takes synthetic facts of the kind that training holds out.
        questions: how many, before each is asked again without its fact.
        property_questions, property_steps: of the property head, as a training config has them.
        seed: of the drawing.
        device: None is cuda where there is one, else cpu.
        progress: told how many texts are encoded.
        say: told what a person should read before that, and what begins.

    Raises:
        ModelFolderError, UnsupportedModelError, EncoderError: as loading and attaching do; before the encoding.
    """
    # In the dtype that `ask` computes in, so that what is learned holds there.
    model, tokenizer = load_base(base, device=device), load_tokenizer(base)
    if model.device.type == "cpu" and model.dtype == torch.bfloat16 != quick_dtype("cpu"):
        model = model.float()  # as `ask` advises there: bfloat16 would take twenty times as long
    # What does not fit is told before many thousands of texts are encoded.
    family_of(model)
    check_fit(model, adapter.config, len(attention_modules(model)))
    check_weights(model, adapter.config)
    data = CalibrationData.gather(
        encoder,
        cache,
        some(triples, seed, say),
        questions=questions,
        property_questions=property_questions,
        seed=seed,
        progress=progress,
    )
    return calibrated(adapter, model, tokenizer, data, property_steps=property_steps, seed=seed, say=say)


def calibrated(
    adapter: KnowledgeAdapter,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: CalibrationData,
    *,
    property_steps: int = STEPS,
    seed: int = 0,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[KnowledgeAdapter, Calibration]:
    """A copy of the adapter, in evaluation mode, with a property head and a confidence learned from questions.

    Args:
        adapter: of the model; takes vectors as the encoder gives them.
        model, tokenizer: with nothing attached.
        data: the questions.
        property_steps: of the property head.
        seed: of its training.
        say: told what begins, since each takes minutes.
    """
    say(f"the property head learns from {len(data.properties.texts):,} questions")
    learn = partial(
        learn_head,
        data.properties,
        data.property_vectors,
        layers=len(data.property_layers),
        steps=property_steps,
        seed=seed,
    )
    head, unknowing = learn(), learn(all_phrasings=False)
    fresh = with_head(adapter, head, layers=data.property_layers, background=tuple(TYPED)).to(model.device).eval()
    say(f"the confidence is learned from {len(data.asked):,} questions")
    # A copy: query heads take the dtype of the model they are attached to, and what was learned is wider.
    attachment = attach(model, copy.deepcopy(fresh))
    try:
        prompts = [question_ids(one.text, attachment, tokenizer) for one in data.asked]
        found = calibrate(attachment, data, prompts, unknowing)
    finally:
        detach(model)
    fresh.config = dataclasses.replace(fresh.config, known_above=found.known_above, confidence=found.confidence)
    return fresh, found
