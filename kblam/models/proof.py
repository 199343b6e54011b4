"""The proof at attach: how a model's attention behaves in a forward pass, not what its attributes are called.

A few tokens are read three times: by the model's own attention, with no triple in force, and with two. With none the
hidden states must be the model's own; on the way the attention function sees what each layer asks of it, and the mask
function what each mask is meant to hide.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kblam.errors import KblamError, KblamWarning, UnsupportedModelError
from kblam.models.families import attention_modules
from kblam.models.weights import probe

if TYPE_CHECKING:
    from kblam.models.attach import Attachment

TOKENS = 6
# Of the norm of the hidden states; a bfloat16 model of 30 layers differs by 1e-2 from one attention to another.
_TOLERANCE, _HALF_TOLERANCE = 1e-3, 0.1
# Keyword arguments that change scores or what is attended to, and that the kernels do not take.
_UNSERVED = ("softcap", "s_aux", "sinks", "indices", "block_indices", "position_bias", "head_mask")


@dataclass(frozen=True)
class _Asked:
    """One call of the attention function."""

    heads: tuple[int, int, int]  # Hq, and the width of keys and of values
    window: int | None
    mask_window: int | None
    has_mask: bool
    others: dict[str, Any]


@dataclass
class _Seen:
    """What the attention function was asked for in one pass, by the module that called it."""

    calls: dict[nn.Module, list[_Asked]] = field(default_factory=dict)

    def __call__(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Any, window: Any, others: Any
    ) -> None:
        heads = (query.shape[1], key.shape[-1], value.shape[-1])
        kinds = {name: others[name] for name in _UNSERVED if name in others}
        asked = _Asked(heads, window, _window_of(mask), hasattr(mask, "asked_for"), kinds)
        self.calls.setdefault(module, []).append(asked)


@torch.no_grad()
def prove(attachment: Attachment) -> tuple[int | None, ...]:
    """Reads a few tokens with a freshly attached adapter, on plain PyTorch.

    Returns:
        For each layer the sliding window that its mask alone knows of; None where attention is told, or has none.

    Raises:
        UnsupportedModelError: knowledge would change more than it should, or not arrive, or the model fails on the way.
    """
    model, adapter, options = attachment.model, attachment.adapter, attachment.options
    attachment.options = replace(options, backend="reference", int8_products=False)
    try:
        with attachment.using(None):
            own = _hidden_states(attachment)
        nothing, some = (_knowledge(attachment, count) for count in (0, 2))
        question = None
        if adapter.config.question_head is not None:
            question = torch.ones(1, adapter.config.embedding_dim, dtype=torch.float32, device=attachment.device)
        seen = _Seen()
        with _its_errors_refused(type(model).__name__):
            with attachment.using(nothing, question=question), attachment.probing(seen):
                without = _hidden_states(attachment)
            attachment.windows = windows = _windows(attachment, seen)
            if any(window is not None and window < TOKENS for window in windows):
                with attachment.using(nothing, question=question):
                    without = _hidden_states(attachment)
            with attachment.using(some, question=question):
                heard = _hidden_states(attachment)
    finally:
        attachment.options = options
    error, name = _distance(without, own), type(model).__name__
    most = _TOLERANCE if own.dtype in (torch.float32, torch.float64) else _HALF_TOLERANCE
    if not model.training and own.isfinite().all() and not error <= most:
        raise UnsupportedModelError(
            f"with no triple in force this {name} does not give its own hidden states (they differ by {error:.1e}): "
            "its attention does something that knowledge layers would leave out"
        )
    # What is to be trained may start so.
    if torch.equal(heard, without) and not options.trainable:
        warnings.warn(
            f"this adapter changes nothing of what this {name} says, whatever the knowledge: is it trained, and loaded "
            "from the right file?",
            KblamWarning,
            stacklevel=3,
        )
    return windows


@contextlib.contextmanager
def _its_errors_refused(name: str) -> Iterator[None]:
    """A model that reads by its own attention and fails with knowledge layers is refused, whatever it raises."""
    try:
        yield
    except (KblamError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise UnsupportedModelError(
            f"with knowledge layers the code of this {name} fails ({reason}): it wants something of its attention, "
            "such as a mask of its own form, that knowledge layers do not give"
        ) from error


def _hidden_states(attachment: Attachment) -> Tensor:
    decoder: Any = attachment.model.get_decoder()
    embeddings = decoder.get_input_embeddings()
    ids = torch.arange(TOKENS, device="cpu")[None] % embeddings.num_embeddings
    ids = ids.to(attachment.input_device)
    # A mask that hides something, so that one is made.
    mask = torch.ones_like(ids)
    mask[:, 0] = 0
    states: Tensor = decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
    return states[:, 1:].detach().cpu()


def _knowledge(attachment: Attachment, count: int) -> Any:
    adapter = attachment.adapter
    vectors = probe(count * adapter.config.embedding_dim).view(count, adapter.config.embedding_dim)
    projected = adapter.project(vectors, vectors.flip(-1))
    return projected.to(dtype=attachment.model.dtype, device=attachment.device)


def _windows(attachment: Attachment, seen: _Seen) -> tuple[int | None, ...]:
    config, name = attachment.config, type(attachment.model).__name__
    windows: list[int | None] = []
    for layer, module in enumerate(attention_modules(attachment.model)):
        calls = seen.calls.get(module, [])
        if layer in config.knowledge_layers and len(calls) != 1:
            raise UnsupportedModelError(
                f"layer {layer} of this {name} attends {len(calls)} times in one forward pass, and a knowledge layer "
                "has one attention"
            )
        for asked in calls:
            if unserved := [kind for kind, value in asked.others.items() if value is not None]:
                raise UnsupportedModelError(
                    f"layer {layer} of this {name} passes {', '.join(unserved)} to its attention, which the kernels do "
                    "not take"
                )
            if layer in config.knowledge_layers and asked.heads != (config.num_heads, *[config.head_dim] * 2):
                raise UnsupportedModelError(
                    f"layer {layer} of this {name} has {asked.heads[0]} heads, keys of width {asked.heads[1]} and "
                    f"values of {asked.heads[2]}; the adapter was made for {config.num_heads} of {config.head_dim}"
                )
            # One of the two is what its own attention follows, and which one depends on the implementation.
            if asked.window is not None and asked.has_mask and asked.window != asked.mask_window:
                of_mask = "no window" if asked.mask_window is None else f"a window of {asked.mask_window} tokens"
                raise UnsupportedModelError(
                    f"layer {layer} of this {name} has a mask with {of_mask}, and tells its attention {asked.window}"
                )
        windows.append(next((asked.mask_window for asked in calls if asked.window is None), None))
    return tuple(windows)


def _window_of(mask: Any) -> int | None:
    """The window of the mask that a layer was given.

    Raises:
        UnsupportedModelError: it is meant to hide something else than causality and a window do.
    """
    function, window = getattr(mask, "asked_for", (None, None))
    if function is None:
        return None
    size = TOKENS if window is None else int(window)
    ends = sorted({at for edge in (0, size, 2 * size) for at in (edge - 1, edge, edge + 1) if at >= 0})
    place = torch.tensor(ends, device="cpu")
    query, column = place[:, None], place[None]
    expected = (column <= query) & (query - column < size) if window is not None else column <= query
    zero = torch.zeros((), dtype=torch.int64, device="cpu")
    if not torch.equal(function(zero, zero, query, column).expand_as(expected), expected):
        raise UnsupportedModelError(
            "the model's mask hides more or less than a causal one with a sliding window does (chunks, blocks that see "
            "each other, a bias)"
        )
    return None if window is None else size


def _distance(one: Tensor, other: Tensor) -> float:
    one, other = one.double(), other.double()
    return float((one - other).norm() / other.norm().clamp_min(1e-12))
