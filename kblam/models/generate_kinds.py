"""What each option of `generate` may be: its kind of value, and when it is read.

transformers looks at most of them only when it needs them, after the prompt was read or in the middle of an answer, and
then raises whatever comes. The limits are its own: what it computes with is not refused, nor what it does not read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor
from torch.distributed import is_initialized
from torch.nn import Module
from transformers import Cache, GenerationConfig, PreTrainedModel, QuantizedCache
from transformers.generation import StopStringCriteria

from kblam.models import cache_name

_LONG = 2**63  # what torch counts with
# Smaller ones make infinity of float32 scores.
_COLDEST = 1e-30


@dataclass(frozen=True)
class Call:
    """A call of `generate`, as far as kinds depend on it.

    Args:
        model: that generates.
        arguments: keyword arguments of the call.
        config: what they and the model's own generation config come to.
    """

    model: PreTrainedModel
    arguments: Mapping[str, Any]
    config: GenerationConfig

    @property
    def vocabulary(self) -> int:
        """How many tokens the model knows."""
        return int(self.model.config.get_text_config().vocab_size)


When = Callable[[GenerationConfig], Any]


@dataclass(frozen=True)
class Kind:
    """What an option may be.

    Args:
        words: the same, for a message.
        fits: (value, the call) -> whether it is of the kind; what it raises is the reason why not.
        when: the option is read.
        may_be_none: None leaves it out.
    """

    words: str
    fits: Callable[[Any, Call], Any]
    when: When = lambda config: True
    may_be_none: bool = True


def real(value: Any) -> bool:
    """A number of Python, numpy or torch."""
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.dim() == 0)


def _whole(value: Any) -> bool:
    is_tensor = isinstance(value, Tensor) and value.dim() == 0 and not value.is_floating_point()
    return (isinstance(value, Integral) or is_tensor) and abs(int(value)) < _LONG


def _python_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _ids(value: Any) -> bool:
    return isinstance(value, Tensor) or torch.tensor(value, dtype=torch.long, device="cpu") is not None


def _one_id(value: Any, _: Call) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_floating_point()
    return isinstance(value, Real) and _ids(value)


def _known_ids(value: Any, call: Call) -> bool:
    ids = value if isinstance(value, Tensor) else torch.as_tensor(value, device="cpu")
    known = not ids.is_floating_point() and ids.dtype != torch.bool and ids.numel() > 0
    return known and int(ids.min()) >= 0 and int(ids.max()) < call.vocabulary


def _words(value: Any, call: Call) -> bool:
    lists = isinstance(value, list) and value and all(isinstance(word, list) for word in value)
    return bool(lists) and all(_known(word, call) for word in value)


def _known(tokens: Iterable[Any], call: Call) -> bool:
    return all(isinstance(token, Integral) and 0 <= int(token) < call.vocabulary for token in tokens)


def _biases(value: Any, call: Call) -> bool:
    pairs = list(value.items()) if isinstance(value, dict) else [tuple(pair) for pair in value]
    sequence = tuple if isinstance(value, dict) else list
    return bool(pairs) and all(
        isinstance(tokens, sequence) and tokens and _known(tokens, call) and isinstance(bias, float)
        for tokens, bias in pairs
    )


def _numbers(value: Any, _: Call) -> bool:
    return isinstance(value, Tensor) or (not isinstance(value, str) and all(real(one) for one in value))


def _leaves_some(value: Any, call: Call) -> bool:
    own = {int(token) for token in value if 0 <= int(token) < call.vocabulary}
    return len(own) < call.vocabulary


def _decay(value: Any, _: Call) -> bool:
    return len(value) >= 2 and all(real(one) for one in value[:2])


def _watermark(value: Any, call: Call) -> bool:
    processor = value.construct_processor(call.vocabulary, "cpu")
    return (
        processor(torch.zeros(1, 8, dtype=torch.long, device="cpu"), torch.zeros(1, call.vocabulary, device="cpu"))
        is not None
    )


def _cache(value: Any, call: Call) -> bool:
    text = call.model.config.get_text_config(decoder=True)
    if value == "quantized":
        given = {"config": text, **(call.config.cache_config or {})}
        QuantizedCache(backend=given.pop("backend", "quanto"), **given)
    elif "offloaded" in value:
        return torch.cuda.is_available() or torch.xpu.is_available()
    return bool(value != "paged")


def _stops(value: Any, call: Call) -> bool:
    given = [value] if isinstance(value, str) else value
    texts = isinstance(given, (list, tuple)) and given and all(isinstance(stop, str) and stop for stop in given)
    tokenizer = call.arguments.get("tokenizer")
    return bool(texts) and tokenizer is not None and StopStringCriteria(tokenizer, value) is not None


def _calls(value: Any, _: Call) -> bool:
    return isinstance(value, (list, tuple)) and all(callable(one) for one in value)


def _methods(*names: str) -> Callable[[Any, Call], bool]:
    return lambda value, _: all(callable(getattr(value, name, None)) for name in names)


def _tensor(value: Any, _: Call) -> bool:
    return isinstance(value, Tensor)


def _sampling(config: GenerationConfig) -> bool:
    return bool(config.do_sample)


def _beams(config: GenerationConfig) -> bool:
    return real(config.num_beams) and bool(config.num_beams > 1)


def _guided(config: GenerationConfig) -> bool:
    return config.guidance_scale is not None and bool(config.guidance_scale != 1)


def _looking_up(config: GenerationConfig) -> bool:
    return config.prompt_lookup_num_tokens is not None


_PENALTY = Kind("a float above 0, such as 1.2", lambda v, _: v == 1 or (isinstance(v, float) and v > 0))
_NGRAM = Kind("a whole number; 0 forbids nothing", lambda v, _: _python_int(v) and v < _LONG)
_LENGTH = Kind("a whole number", lambda v, _: isinstance(v, int))
_FLAG = Kind("True or False", lambda v, _: bool(v) in (True, False))
_SOME_IDS = Kind("a token id, or a list of them", lambda v, _: _ids(v))
_SUPPRESSED = Kind("a list of token ids", _numbers)
_CUTOFF = Kind("a number", lambda v, _: real(v), _sampling)

# By option; several kinds where several things count. An option that is in none is read as it is.
OPTIONS: dict[str, tuple[Kind, ...]] = {
    "max_new_tokens": (
        Kind("a whole number of at least 1", lambda v, _: (isinstance(v, int) or _whole(v)) and v >= 1),
    ),
    "max_length": (Kind("a whole number", lambda v, _: _whole(v), lambda config: config.max_new_tokens is None),),
    "min_length": (_LENGTH,),
    "min_new_tokens": (_LENGTH,),
    "max_time": (Kind("a number of seconds", lambda v, _: real(v)),),
    "stop_strings": (Kind("texts that are not empty, beside tokenizer=, which must be able to cut them", _stops),),
    "num_beams": (
        Kind("a whole number of at least 1", lambda v, _: v == 1 or (_whole(v) and v >= 1), may_be_none=False),
    ),
    "num_return_sequences": (
        Kind("a whole number", lambda v, _: real(v) and (not v > 1 or _whole(v)), may_be_none=False),
    ),
    "length_penalty": (Kind("a number", lambda v, _: real(v), _beams),),
    "num_beam_groups": (Kind("a number", lambda v, _: real(v), _beams),),
    "penalty_alpha": (
        Kind("a number", lambda v, _: real(v), lambda config: not _beams(config) and not config.do_sample),
    ),
    "prefill_chunk_size": (
        Kind("a whole number of at least 1", lambda v, _: not isinstance(v, bool) and _whole(v) and v >= 1),
    ),
    "cache_implementation": (Kind("a cache that works here, such as 'dynamic' or 'static'", _cache),),
    "max_cache_len": (
        Kind("a whole number", lambda v, _: _whole(v), lambda config: "static" in str(config.cache_implementation)),
    ),
    "repetition_penalty": (_PENALTY,),
    "encoder_repetition_penalty": (_PENALTY,),
    "no_repeat_ngram_size": (_NGRAM,),
    "encoder_no_repeat_ngram_size": (_LENGTH,),
    "temperature": (
        Kind(
            f"a float of at least {_COLDEST:g}, such as 0.7 (do_sample=False is greedy)",
            lambda v, _: v == 1 or (isinstance(v, float) and v >= _COLDEST),
            _sampling,
        ),
    ),
    "top_k": (
        Kind("a whole number", lambda v, _: real(v), lambda config: not _beams(config)),
        Kind("a whole number; 0 keeps all tokens", lambda v, _: _python_int(v) and v >= 0, _sampling),
    ),
    "top_p": (Kind("a number of 0 .. 1", lambda v, _: real(v) and not v < 0, _sampling),),
    "min_p": (Kind("a number of 0 .. 1", lambda v, _: real(v) and 0 <= v <= 1, _sampling),),
    "top_h": (Kind("a number above 0, up to 1", lambda v, _: real(v) and 0 < v <= 1, _sampling),),
    "typical_p": (Kind("a number above 0, up to 1", lambda v, _: real(v) and not v <= 0, _sampling),),
    "epsilon_cutoff": (_CUTOFF,),
    "eta_cutoff": (_CUTOFF,),
    "bad_words_ids": (Kind("a list of lists of token ids that the model has", _words),),
    "sequence_bias": (Kind("a dict from tuples of token ids that the model has to floats", _biases),),
    "suppress_tokens": (_SUPPRESSED, Kind("not all tokens of the model", _leaves_some, _sampling)),
    "begin_suppress_tokens": (_SUPPRESSED, Kind("not all tokens of the model", _leaves_some, _sampling)),
    "forced_eos_token_id": (Kind("a token id that the model has, or a list of them", _known_ids),),
    "eos_token_id": (_SOME_IDS,),
    "bos_token_id": (_SOME_IDS,),
    "decoder_start_token_id": (_SOME_IDS,),
    "pad_token_id": (Kind("a token id", _one_id),),
    "exponential_decay_length_penalty": (Kind("(where it begins, its factor), two numbers", _decay),),
    "guidance_scale": (Kind("a number", lambda v, _: real(v) and (isinstance(v, (float, Tensor)) or abs(v) < _LONG)),),
    "watermarking_config": (Kind("a WatermarkingConfig, or a dict of its fields", _watermark),),
    "prompt_lookup_num_tokens": (Kind("a number above 0", lambda v, _: real(v) and not v <= 0 and v < _LONG),),
    "max_matching_ngram_size": (
        Kind("a whole number of at least 1", lambda v, _: not v or (_whole(v) and v >= 1), _looking_up),
    ),
    "assistant_early_exit": (
        Kind(
            "a number of the model's layers",
            lambda v, call: _python_int(v) and 0 <= v <= call.model.config.get_text_config().num_hidden_layers,
        ),
    ),
    "is_assistant": (Kind("left out: transformers sets it on draft models", lambda v, _: not v),),
    "use_mtp": (
        Kind(
            "left out: the model has no layers that guess several tokens",
            lambda v, call: not v or getattr(call.model.config.get_text_config(), "num_mtp_layers", None) is not None,
        ),
    ),
    "token_healing": (
        Kind("left out, or given beside tokenizer=", lambda v, call: not v or call.arguments.get("tokenizer")),
    ),
    "output_hidden_states": (Kind("True or False", lambda v, _: not v or isinstance(v, (bool, int, list, bytes))),),
    "do_sample": (_FLAG,),
    "use_cache": (_FLAG,),
    "output_attentions": (_FLAG,),
    "return_dict_in_generate": (_FLAG,),
    "disable_compile": (_FLAG,),
}

# What `generate` takes beside options of its config.
ARGUMENTS: dict[str, Kind] = {
    "generation_config": Kind("a GenerationConfig", lambda v, _: isinstance(v, GenerationConfig)),
    "tokenizer": Kind("the model's tokenizer", _methods("decode", "get_vocab")),
    "logits_processor": Kind("a list of logits processors", _calls),
    "stopping_criteria": Kind("a list of stopping criteria", _calls),
    "prefix_allowed_tokens_fn": Kind("a function", lambda v, _: callable(v)),
    "streamer": Kind("a streamer with the methods put and end", _methods("put", "end")),
    # Not only transformers' own: a compiled one, or one that PEFT has wrapped, drafts too.
    "assistant_model": Kind("a model", lambda v, _: isinstance(v, Module) and callable(getattr(v, "generate", None))),
    "negative_prompt_ids": Kind("a tensor (B, N) of token ids", _tensor, _guided),
    **dict.fromkeys(cache_name.NAMES, Kind("a cache of transformers", lambda v, _: isinstance(v, Cache))),
    "position_ids": Kind("a tensor", _tensor),
    "attention_mask": Kind("a tensor", _tensor),
    "synced_gpus": Kind("left out where torch.distributed is not set up", lambda v, _: not v or is_initialized()),
    "logits_to_keep": Kind("a whole number or a tensor", lambda v, _: _whole(v) or isinstance(v, Tensor)),
}
