"""A call of `generate` is checked before it runs: the caller's options and the model's own config, as they merge."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.configuration_utils import GenerationMode

from kblam.errors import GenerationError
from kblam.models import cache_name, calls
from kblam.models.generate_kinds import ARGUMENTS, OPTIONS, Call, Kind
from kblam.models.hooks import attachment_of

# transformers runs them with code from its hub alone.
_ON_THE_HUB = {
    *(GenerationMode.CONTRASTIVE_SEARCH, GenerationMode.DOLA_GENERATION),
    *(GenerationMode.GROUP_BEAM_SEARCH, GenerationMode.CONSTRAINED_BEAM_SEARCH),
}


def merged(
    model: PreTrainedModel, arguments: Mapping[str, Any], *, without: frozenset[str] = frozenset()
) -> GenerationConfig:
    """What a call of `generate` comes to, as transformers merges it, with every option that is read known to work.

    Args:
        model: that generates.
        arguments: of the call, beside its prompt, by keyword.
        without: options that somebody else looks at.

    Raises:
        GenerationError: an option is none of `generate`, or is not of its kind.
    """
    _check(ARGUMENTS.get("generation_config"), "generation_config", arguments.get("generation_config"), None)
    chosen = arguments.get("generation_config")
    try:
        config = _merge(model, chosen, arguments)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        # Often a comparison that failed. The caller's own option of the wrong kind says more.
        given = {**({} if chosen is None else vars(chosen)), **arguments}
        base = GenerationConfig()
        base.__dict__.update({name: given[name] for name in given.keys() & vars(base).keys()})
        _check_all(Call(model, arguments, base), given.keys() & OPTIONS.keys() - without)
        raise GenerationError(f"generate does not take these options: {error}") from error
    call = Call(model, arguments, config)
    for name, kind in ARGUMENTS.items():
        _check(kind, name, arguments.get(name), call)
    _check_all(call, OPTIONS.keys() - without)
    return config


def check_mode(model: Any, config: GenerationConfig, arguments: Mapping[str, Any]) -> None:
    """Refuses ways to generate that transformers no longer has, or not for this call.

    Raises:
        GenerationError: one of them is asked for.
    """
    mode = config.get_generation_mode(arguments.get("assistant_model"))
    if mode in _ON_THE_HUB and not arguments.get("trust_remote_code"):
        raise GenerationError(
            f"these options ask for {mode.value}, which transformers runs with code from the hub: leave them out, or "
            "pass trust_remote_code=True if you trust it"
        )
    try:
        model._validate_generation_mode(mode, config, {name: v for name, v in arguments.items() if v is not None})
    except (TypeError, ValueError, AttributeError) as error:
        raise GenerationError(f"generate does not take these options: {error}") from error


class CheckedGenerate:
    """`generate` of an attached model: with knowledge in force its options are checked first, and rows counted.

    Without knowledge it is transformers' own, whatever it is given. A class of this module, not a closure, so that a
    model with it can be copied and pickled. What is attached is asked at each call: models that share a decoder have
    one attachment, and each a `generate` of its own.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._own)

    @property
    def _own(self) -> Callable[..., Any]:
        """The model's, bound to it: found at each call, since a copy of the model has a copy of this."""
        model: Any = self.model
        own: Callable[..., Any] = type(model).generate.__get__(model)
        return own

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model, own, attachment = self.model, self._own, attachment_of(self.model)
        if attachment is not None and attachment.call is not None:
            bound = inspect.signature(own).bind_partial(*args, **kwargs).arguments
            given = {**{name: value for name, value in bound.items() if name != "kwargs"}, **bound.get("kwargs", {})}
            # What drafts for another call is part of that. A function of the caller's has options of its own.
            if not getattr(given.get("generation_config"), "is_assistant", None):
                each = None
                if given.get("custom_generate") is None:
                    check_mode(model, config := merged(model, given), given)
                    each = _each_of(config, given)
                with calls.generating(attachment, each):
                    return own(*args, **kwargs)
        return own(*args, **kwargs)


class CheckedBatching:
    """`init_continuous_batching` of an attached model, which `generate_batch` calls: refused with knowledge in force.

    Its paged cache has no attention that knowledge could join; the ways that do are named. Without knowledge it is
    transformers' own.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        model: Any = self.model
        attachment = attachment_of(model)
        if attachment is not None and attachment.call is not None:
            raise GenerationError(
                "continuous batching (generate_batch) reads a paged cache, which knowledge layers cannot; use generate "
                "with a padded batch, or kblam serve on vLLM"
            )
        return type(model).init_continuous_batching.__get__(model)(*args, **kwargs)


# What an attached model has in place of its own, by the name of the attribute.
CHECKED: dict[str, type[CheckedGenerate | CheckedBatching]] = {
    "generate": CheckedGenerate,
    "init_continuous_batching": CheckedBatching,
}


def put_checks(model: PreTrainedModel) -> None:
    """Has calls of a model's `generate` and `generate_batch` checked."""
    for name, checked in CHECKED.items():
        vars(model)[name] = checked(model)


def take_checks(model: PreTrainedModel) -> None:
    """Undoes `put_checks`; what others have put there stays."""
    for name, checked in CHECKED.items():
        if isinstance(vars(model).get(name), checked):
            del vars(model)[name]


def _each_of(config: GenerationConfig, arguments: Mapping[str, Any]) -> int | None:
    """How many rows of a batch `generate` makes of each row of its prompt; None where code from the hub does it."""
    if config.get_generation_mode(arguments.get("assistant_model")) in _ON_THE_HUB:
        return None
    return max(config.num_beams or 1, config.num_return_sequences or 1)


def _merge(model: Any, chosen: GenerationConfig | None, arguments: Mapping[str, Any]) -> GenerationConfig:
    known = {"self", "tokenizer", "assistant_tokenizer", "trust_remote_code"}
    named = inspect.signature(type(model).generate).parameters.keys() | known
    others = {name: value for name, value in arguments.items() if name not in named}
    config, unused = model._prepare_generation_config(chosen, **cache_name.as_taken(model, others))
    model._validate_model_kwargs(dict(unused))
    found: GenerationConfig = config
    return found


def _check_all(call: Call, names: set[str]) -> None:
    for name in sorted(names):
        for kind in OPTIONS[name]:
            if hasattr(call.config, name):
                _check(kind, name, getattr(call.config, name), call)


def _check(kind: Kind | None, name: str, value: Any, call: Call | None) -> None:
    if kind is None or (value is None and kind.may_be_none):
        return
    reason = ""
    try:
        if (call is not None and not kind.when(call.config)) or kind.fits(value, call):  # type: ignore[arg-type]
            return
    except Exception as error:  # whatever a strange value does where it is looked at
        reason = f": {error}" if str(error) else ""
    shown = repr(value)
    shown = shown if len(shown) <= 60 else f"{shown[:57]}..."
    raise GenerationError(f"{name} must be {kind.words}; got {shown}{reason}")
