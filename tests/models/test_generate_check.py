"""What cannot work is refused before `generate` runs, by name and value; what works is not."""

from __future__ import annotations

import copy
import inspect
import math
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import ContinuousBatchingConfig, DynamicCache, GenerationConfig, LogitsProcessorList, TopKLogitsWarper

from kblam import detach
from kblam.errors import GenerationError
from kblam.models.generate_check import CHECKED
from kblam.models.generate_kinds import OPTIONS
from tests.models.conftest import Tied, tie
from tests.models.tiny import PassesOn, prompts, tiny_model, triples

IDS, MASK = prompts()
SAMPLE = {"do_sample": True}
BEAMS = {"num_beams": 2}


def generate(tied: Tied, options: dict[str, Any]) -> torch.Tensor:
    given: dict[str, Any] = {"attention_mask": MASK, "max_new_tokens": 3, **options}
    with tied.attachment.using(triples(tied.adapter, 9)):
        out: torch.Tensor = tied.model.generate(IDS, **given)
    return out


WRONG: list[Any] = [
    {"repetition_penalty": 0},
    {"repetition_penalty": math.nan},
    {"encoder_repetition_penalty": "1.2"},
    {"no_repeat_ngram_size": 2.5},
    {"prefill_chunk_size": 0},
    {"prefill_chunk_size": True},
    {"eos_token_id": "</s>"},
    {"eos_token_id": [2, None]},
    {"pad_token_id": "x"},
    {"forced_eos_token_id": 10**6},
    {"bad_words_ids": [[10**6]]},
    {"bad_words_ids": [3]},
    {"sequence_bias": {(3,): 1}},
    {"suppress_tokens": ["x"]},
    {"begin_suppress_tokens": 3},
    {"exponential_decay_length_penalty": (1, "a")},
    {"guidance_scale": "2"},
    {"watermarking_config": "x"},
    {"watermarking_config": {"hashing_key": "x"}},
    {"max_time": "3"},
    {"min_new_tokens": "3"},
    {"max_new_tokens": "3"},
    {"num_beams": "2"},
    {"num_beams": None},
    {"num_return_sequences": None},
    {"cache_implementation": "paged"},
    {"cache_implementation": "quantized", "cache_config": "x"},
    {"cache_implementation": "static", "max_cache_len": "64"},
    {"stop_strings": ["x"]},
    {"token_healing": True},
    {"is_assistant": True},
    {"use_mtp": True},
    {"assistant_early_exit": 99},
    {"prompt_lookup_num_tokens": 0},
    {"output_hidden_states": "yes"},
    {"do_sample": torch.tensor([1, 2])},
    {"top_k": "5"},
    {**SAMPLE, "top_k": True},
    {**SAMPLE, "top_p": "5"},
    {**SAMPLE, "top_p": -0.1},
    {**SAMPLE, "min_p": 1.5},
    {**SAMPLE, "top_h": 0},
    {**SAMPLE, "typical_p": 0},
    {**SAMPLE, "eta_cutoff": "0.5"},
    {**SAMPLE, "temperature": 0.0},
    {**SAMPLE, "temperature": 1e-320},
    {**BEAMS, "length_penalty": "1"},
]


@pytest.mark.parametrize("options", WRONG, ids=str)
def test_an_option_of_the_wrong_kind_is_refused_by_name_and_value(options: dict[str, Any], tied: Tied) -> None:
    name = list(options)[0 if "cache_config" in options else -1]
    forwards: list[int] = []
    tied.model.model.register_forward_pre_hook(lambda *_: forwards.append(1))
    with pytest.raises(GenerationError, match=f"{name} must be .*; got "):
        generate(tied, options)
    assert not forwards


def test_the_table_has_names_of_transformers() -> None:
    assert OPTIONS.keys() <= vars(GenerationConfig()).keys()


UNREADABLE: list[Any] = [
    ({"streamer": "x"}, "streamer must be"),
    ({"logits_processor": ["x"]}, "logits_processor must be"),
    ({"stopping_criteria": 5}, "stopping_criteria must be"),
    ({"prefix_allowed_tokens_fn": 5}, "prefix_allowed_tokens_fn must be a function"),
    ({"tokenizer": "x"}, "tokenizer must be the model's tokenizer"),
    ({"assistant_model": "x"}, "assistant_model must be a model"),
    ({"generation_config": {"top_k": 3}}, "generation_config must be a GenerationConfig"),
    ({"past_key_values": "x"}, "past_key_values must be a cache"),
    ({"negative_prompt_ids": "x", "guidance_scale": 1.5}, "negative_prompt_ids must be a tensor"),
    ({"synced_gpus": True}, "synced_gpus must be left out"),
    ({"temprature": 0.5}, "does not take these options: .*temprature"),
    ({"early_stopping": "always"}, "does not take these options: .*early_stopping"),
    ({"penalty_alpha": 0.6, "top_k": 4}, "ask for contrastive_search, which transformers runs with code from the hub"),
    ({**BEAMS, "streamer": print}, "streamer must be"),
]


@pytest.mark.parametrize(("options", "message"), UNREADABLE, ids=lambda value: str(value)[:50])
def test_an_argument_that_is_none_is_refused(options: dict[str, Any], message: str, tied: Tied) -> None:
    with pytest.raises(GenerationError, match=message):
        generate(tied, options)


RIGHT: list[Any] = [
    {"temperature": 0},
    {"top_p": "0.9"},
    {"repetition_penalty": math.inf},
    {"eos_token_id": -1},
    {"eos_token_id": [[2]]},
    {"eos_token_id": torch.tensor([2, 3])},
    {"pad_token_id": np.int64(2)},
    {"prefill_chunk_size": torch.tensor(2)},
    {"num_beams": np.int64(2)},
    {"num_beams": 1.0},
    {"num_return_sequences": 0},
    {"max_new_tokens": torch.tensor(3)},
    {"guidance_scale": 0},
    {"suppress_tokens": [10**6, 3]},
    {"max_time": -1},
    {"stop_strings": None},
    {"cache_implementation": "static", "disable_compile": True},
    {"past_key_values": DynamicCache()},
    {"logits_processor": LogitsProcessorList([TopKLogitsWarper(4)])},
    {"generation_config": GenerationConfig(top_k=3, do_sample=True)},
    {"prompt_lookup_num_tokens": 2, "attention_mask": MASK[1:]},
    {**SAMPLE, "top_p": 2},
    {**SAMPLE, "top_k": 0},
    {**SAMPLE, "temperature": math.inf},
    {**SAMPLE, "epsilon_cutoff": -1},
    {**BEAMS, "early_stopping": "never"},
]


@pytest.mark.parametrize("options", RIGHT, ids=lambda value: str(value)[:60])
def test_what_transformers_computes_with_is_not_refused(options: dict[str, Any], tied: Tied) -> None:
    ids = IDS[1:] if "prompt_lookup_num_tokens" in options else IDS
    given: dict[str, Any] = {"attention_mask": MASK, "max_new_tokens": 3, **options}
    assert tied.model.generate(ids, **copy.deepcopy(given)).shape[1] > IDS.shape[1]
    with tied.attachment.using(triples(tied.adapter, 9)):
        assert tied.model.generate(ids, **given).shape[1] > IDS.shape[1]


def test_without_knowledge_generate_is_transformers_own(tied: Tied) -> None:
    with pytest.raises(ValueError, match="`penalty` has to be a strictly positive float"):
        tied.model.generate(IDS, attention_mask=MASK, max_new_tokens=2, repetition_penalty=0.0)
    own = inspect.signature(type(tied.model).generate).parameters.keys() - {"self"}
    assert inspect.signature(tied.model.generate).parameters.keys() == own


def test_continuous_batching_is_refused_with_knowledge_and_transformers_own_without(tied: Tied) -> None:
    """Its paged cache would leave knowledge out, or fail deep inside."""
    given = {"inputs": [IDS[1].tolist()], "generation_config": GenerationConfig(max_new_tokens=2, do_sample=False)}
    with (
        tied.attachment.using(triples(tied.adapter, 9)),
        pytest.raises(
            GenerationError, match=r"generate_batch.*use generate with a padded batch, or kblam serve on vLLM"
        ),
    ):
        tied.model.generate_batch(**given)
    # By default it takes a share of the memory that is free, whoever else needs it.
    little = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=64)
    (found,) = tied.model.generate_batch(**given, continuous_batching_config=little).values()
    alone = tied.model.generate(IDS[1:], attention_mask=torch.ones_like(IDS[1:]), max_new_tokens=2, do_sample=False)
    assert found.generated_tokens == alone[0, IDS.shape[1] :].tolist()


def test_an_attached_model_may_draft_for_another(tied: Tied) -> None:
    with tied.attachment.using(triples(tied.adapter, 9)):
        alone = tied.model.generate(IDS[1:], attention_mask=MASK[1:], max_new_tokens=4, do_sample=False)
        drafted = tied.model.generate(
            IDS[1:], attention_mask=MASK[1:], max_new_tokens=4, do_sample=False, assistant_model=tied.model
        )
    assert torch.equal(alone, drafted)


@pytest.mark.parametrize(
    "wrap", [PassesOn, lambda model: torch.compile(model, backend="eager")], ids=["PEFT", "compiled"]
)
def test_a_draft_model_may_be_wrapped(tied: Tied, wrap: Callable[[Any], Any]) -> None:
    given: dict[str, Any] = {"attention_mask": MASK[1:], "max_new_tokens": 4, "do_sample": False}
    with tied.attachment.using(triples(tied.adapter, 9)):
        alone = tied.model.generate(IDS[1:], **given)
        assert torch.equal(tied.model.generate(IDS[1:], **given, assistant_model=wrap(tiny_model())), alone)


def test_the_check_goes_with_the_attachment_and_its_copies() -> None:
    tied = tie()
    for copied in (copy.deepcopy(tied.model), pickle.loads(pickle.dumps(tied.model))):
        assert all(vars(copied)[name].model is copied for name in CHECKED)
        detach(copied)
        assert not CHECKED.keys() & vars(copied).keys()
    assert vars(tied.model).keys() >= CHECKED.keys()
    detach(tied.model)
    assert not CHECKED.keys() & vars(tied.model).keys()
