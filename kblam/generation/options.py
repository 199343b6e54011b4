"""What `generate` will do: the caller's options, their generation config and the model's own, merged beforehand.

An answer's evidence is followed token by token, through one forward pass for each. Options that the caller gives are
followed, or refused by name; those that only the model's generation_config.json has and that cannot be followed are
replaced by their neutral values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.configuration_utils import GenerationMode

from kblam.errors import GenerationError
from kblam.generation.prompt import TOKENIZING
from kblam.models import cache_name
from kblam.models.generate_check import merged

# `Session` gives these itself.
_OWN = (
    *("inputs", "input_ids", "inputs_embeds", "attention_mask", "position_ids", "max_length"),
    *cache_name.NAMES,
)
_FOLLOWED = (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE)
# What decides how many sequences, passes and tokens a step has. What a release of transformers lacks is left out.
_NEUTRAL: dict[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "penalty_alpha": None,
    "dola_layers": None,
    "constraints": None,
    "force_words_ids": None,
    "prompt_lookup_num_tokens": None,
    "assistant_early_exit": None,
    "use_mtp": None,
    "token_healing": False,
}
# Token ids and their mask with a row for each question: what guidance leads away from.
_BY_QUESTION = ("negative_prompt_ids", "negative_prompt_attention_mask")
# What would change the words of an answer, with the value that changes none: one that is decided has its words already.
_OF_WORDS: dict[str, Any] = {
    "min_length": 0,
    "min_new_tokens": 0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": [],
    "sequence_bias": {},
    "suppress_tokens": [],
    "begin_suppress_tokens": [],
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "exponential_decay_length_penalty": None,
}
# Beside them nothing else changes what greedy decoding says where one token is certain.
_PLAIN = {*_NEUTRAL, "streamer", "eos_token_id", "pad_token_id", "max_new_tokens"}


@dataclass(frozen=True)
class Generating:
    """A checked call of `generate`.

    Args:
        arguments: its keyword arguments, beside the prompt.
        config: what they and the model's own generation config come to.
        ends: the tokens that end an answer.
        pad: what rows that have ended are filled up with.
    """

    arguments: dict[str, Any]
    config: GenerationConfig
    ends: tuple[int, ...]
    pad: int

    @property
    def stops(self) -> tuple[str, ...]:
        """The strings after which an answer ends."""
        given = self.config.stop_strings
        return () if given is None else (given,) if isinstance(given, str) else tuple(given)

    @property
    def is_plain(self) -> bool:
        """Whether it is greedy, and nothing but the end token and the length limit ends an answer."""
        config = self.config
        others = (config.stop_strings, config.max_time, config.watermarking_config)
        greedy = config.get_generation_mode() == GenerationMode.GREEDY_SEARCH
        return greedy and self.arguments.keys() <= _PLAIN and all(one is None for one in others)

    def of_questions(self, rows: Sequence[int]) -> Generating:
        """The call for some of the questions, by their places."""
        own = {name: self.arguments[name][list(rows)] for name in _given(_BY_QUESTION, self.arguments)}
        return replace(self, arguments={**self.arguments, **own}) if own else self

    def after(self, prompt_length: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
        """The keyword arguments for prompts of so many tokens."""
        if not self.stops:
            return self.arguments if self.config.stop_strings is None else {**self.arguments, "stop_strings": None}
        # Not transformers' own, which takes a vocabulary apart and cannot do so with every tokenizer.
        given = self.arguments.get("stopping_criteria") or ()
        stopping = StoppingCriteriaList([*given, StopStrings(tokenizer, self.stops, prompt_length)])
        return {**self.arguments, "stop_strings": None, "stopping_criteria": stopping}

    @property
    def max_new_tokens(self) -> int:
        """The length limit."""
        return int(self.config.max_new_tokens)


def generating(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    max_new_tokens: int,
    options: Mapping[str, Any],
    *,
    questions: int = 1,
) -> Generating:
    """What `ask` passes to `model.generate`.

    Args:
        options: of the caller, as `generate` takes them.
        questions: how many they are for.

    Raises:
        GenerationError: an option makes several sequences, passes or tokens a step, or is not the caller's to give, or
            is no option of `generate`, or has other rows than questions.
    """
    if given := sorted({*_OWN} & options.keys()):
        raise GenerationError(
            f"ask gives generate its {', '.join(given)} itself; leave it out (max_new_tokens= limits)"
        )
    if options.get("custom_generate") is not None:
        raise GenerationError("ask runs no generate but transformers' own; leave custom_generate out")
    for name in _given(_BY_QUESTION, options):
        given = options[name]
        if not isinstance(given, Tensor) or given.dim() != 2 or len(given) != questions:
            found = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise GenerationError(f"{name} must be a tensor ({questions}, N), a row for each question; got {found}")
    chosen = options.get("generation_config")
    if isinstance(chosen, GenerationConfig):
        _check_lengths(chosen)
    known = GenerationConfig()
    neutral = {
        name: value
        for name, value in _NEUTRAL.items()
        if hasattr(known, name) and getattr(chosen, name, None) is None and name not in options
    }
    arguments = {**neutral, **options, "max_new_tokens": max_new_tokens}
    if max_new_tokens is None:
        raise GenerationError("max_new_tokens must be a whole number of at least 1; got None")
    # `StopStrings` looks for stop strings, and asks no tokenizer to cut them; token_healing is refused below.
    config = merged(model, arguments, without=frozenset({"stop_strings", "token_healing"}))
    _check_mode(config, arguments)
    _check_stops(config.stop_strings)
    ends = _ids(config.eos_token_id) or _ids(tokenizer.eos_token_id)
    if "pad_token_id" not in options and getattr(chosen, "pad_token_id", None) is None:
        arguments["pad_token_id"] = next(iter([*_ids(tokenizer.pad_token_id), *ends]), 0)
    pad = next(iter(_ids(arguments.get("pad_token_id", config.pad_token_id))), 0)
    return Generating(arguments, config, tuple(ends), pad)


def check_decided(options: Mapping[str, Any]) -> None:
    """Checks the options for answers that are decided at the prompt's end, refusals too.

    Raises:
        GenerationError: one would change their words.
    """
    given = [name for name, neutral in _OF_WORDS.items() if options.get(name) not in (None, neutral)]
    if given:
        raise GenerationError(
            f"{given[0]}={options[given[0]]!r} would change the words of an answer, which this adapter's confidence "
            "decides on before a token is said; leave it out, or leave the words to the model (unknown=None)"
        )


class StopStrings(StoppingCriteria):
    """Ends a row whose answer holds one of some strings.

    Args:
        tokenizer: of the model.
        stops: the strings.
        prompt_length: tokens before the answer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stops: Sequence[str], prompt_length: int) -> None:
        self.tokenizer, self.stops, self.prompt_length = tokenizer, stops, prompt_length

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """input_ids (B, N) int64 -> bool (B,); what `generate` calls after every token."""
        rows = input_ids[:, self.prompt_length :].tolist()
        with TOKENIZING:
            texts = [str(self.tokenizer.decode(row, skip_special_tokens=True)) for row in rows]
        return torch.tensor([any(stop in text for stop in self.stops) for text in texts], device=input_ids.device)


def _check_lengths(chosen: GenerationConfig) -> None:
    for name in ("max_length", "max_new_tokens"):
        if getattr(chosen, name) is not None:
            raise GenerationError(f"{name} of a generation_config is not read here; pass max_new_tokens= to ask")


def _check_mode(config: GenerationConfig, arguments: Mapping[str, Any]) -> None:
    if (config.num_beams or 1) != 1 or (config.num_return_sequences or 1) != 1:
        raise GenerationError(
            "ask follows one sequence per question to name its evidence; for num_beams or num_return_sequences "
            "call model.generate inside attachment.using(...)"
        )
    mode = config.get_generation_mode(arguments.get("assistant_model"))
    if mode not in _FOLLOWED:
        raise GenerationError(
            f"ask follows an answer token by token to name its evidence, and these options ask for {mode.value}, which "
            "does not make one token of one forward pass (assistant_model, prompt_lookup_num_tokens, penalty_alpha, "
            "...); leave them out, or call model.generate inside attachment.using(...)"
        )
    if config.token_healing:
        raise GenerationError("token_healing changes the question's last tokens; leave it out")


def _check_stops(given: Any) -> None:
    stops = [given] if isinstance(given, str) else () if given is None else given
    if not isinstance(stops, Sequence) or not all(isinstance(stop, str) and stop for stop in stops):
        raise GenerationError(f"stop_strings must be texts that are not empty, got {given!r}: every answer holds ''")


def _given(names: Sequence[str], options: Mapping[str, Any]) -> list[str]:
    return [name for name in names if options.get(name) is not None]


def _ids(given: Any) -> list[int]:
    """Token ids from a number, several, or a tensor of them, as transformers reads them."""
    if given is None:
        return []
    where = given.device if isinstance(given, Tensor) else "cpu"  # whatever the default device is
    ids: list[int] = torch.as_tensor(given, dtype=torch.long, device=where).flatten().tolist()
    return ids
