"""Which attention a model's config names: "kblam" while any call with knowledge is in force, else the model's own.

That name is state of the model, which all threads share. So calls in force are counted, and a call without knowledge
that finds "kblam" is handed to the model's own attention and mask function.
"""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from kblam.errors import KnowledgeError

if TYPE_CHECKING:
    from kblam.models.attach import Attachment

IMPLEMENTATION = "kblam"


class Switch:
    """The state of one config.

    Attributes:
        base: the model's own attention implementation.
        in_force: how many calls with knowledge there are now.
        attachment: of the model whose config it is; None while nothing is attached.
    """

    def __init__(self) -> None:
        self.base = "sdpa"
        self.in_force = 0
        self.attachment: weakref.ref[Attachment] | None = None


# By id, since a config cannot be hashed; an entry is removed with its config. Kept here and not on the model: a lock
# and a weak reference in a model's state would prevent copying and pickling it.
_SWITCHES: dict[int, Switch] = {}
_LOCK = threading.RLock()


def switch_of(config: Any) -> Switch:
    """The switch of a config, made when first asked for."""
    with _LOCK:
        if id(config) not in _SWITCHES:
            weakref.finalize(config, _SWITCHES.pop, id(config), None)
            _SWITCHES[id(config)] = Switch()
        return _SWITCHES[id(config)]


def _found(key: int) -> Switch | None:
    """The switch of the config that has this id, where one was made."""
    return _SWITCHES.get(key)


# What `torch.compiler.assume_constant_result` sets; to decorate with it would import Dynamo. A trace that read the dict
# itself would go through all of its entries, and fail where one comes or goes meanwhile: another thread attaches a
# model, or the collector takes one. A config that reaches "kblam" has its switch, for as long as it lives.
_found._dynamo_marked_constant = True  # type: ignore[attr-defined]


def has_knowledge(config: Any) -> bool:
    """Whether a call of this thread or task to the model that a config belongs to has knowledge."""
    switch = _found(id(config))
    attachment = None if switch is None or switch.attachment is None else switch.attachment()
    return attachment is not None and attachment.call is not None


def base_of(config: Any) -> str:
    """The name of the model's own attention implementation."""
    switch = _found(id(config))
    return "sdpa" if switch is None else switch.base


def hold(decoder: PreTrainedModel, attachment: Attachment) -> None:
    """One more call with knowledge; each `hold` needs its `release`.

    Raises:
        KnowledgeError: if another model that shares the config object has knowledge in force.
    """
    with _LOCK:
        switch = switch_of(decoder.config)
        other = None if switch.attachment is None else switch.attachment()
        if switch.in_force and other is not None and other.model is not attachment.model:
            raise KnowledgeError(
                "another model has knowledge in force and shares this one's config object, so that one's attention "
                "would be the other's; give each model a config of its own (copy.deepcopy)"
            )
        switch.attachment = weakref.ref(attachment)
        now = decoder.config._attn_implementation
        if now != IMPLEMENTATION:
            # If the user chose another attention in between, return to that one.
            switch.base = now
            decoder.set_attn_implementation(IMPLEMENTATION)
        switch.in_force += 1


def release(decoder: PreTrainedModel) -> None:
    """One call fewer; after the last one the model has its own attention back."""
    with _LOCK:
        switch = switch_of(decoder.config)
        switch.in_force -= 1
        if switch.in_force == 0 and decoder.config._attn_implementation == IMPLEMENTATION:
            decoder.set_attn_implementation(switch.base)


def settle(decoder: PreTrainedModel, base: str) -> None:
    """Gives a model its own attention back that was copied or saved while another one's calls had knowledge."""
    with _LOCK:
        if not switch_of(decoder.config).in_force and decoder.config._attn_implementation == IMPLEMENTATION:
            decoder.set_attn_implementation(base)


def base_attention(module: nn.Module) -> Callable[..., Any]:
    """The attention function that a layer would call if no knowledge were in force."""
    own: Any = getattr(sys.modules[type(module).__module__], "eager_attention_forward", None)
    found: Callable[..., Any] = ALL_ATTENTION_FUNCTIONS.get_interface(base_of(module.config), own)
    return found


def base_mask(config: Any, **arguments: Any) -> Any:
    """The mask that the model would make if no knowledge were in force."""
    return ALL_MASK_ATTENTION_FUNCTIONS[base_of(config)](config=config, **arguments)
