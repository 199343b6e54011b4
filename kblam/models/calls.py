"""Knowledge as state of a call: a `with` block applies only to its own thread or task.

A forward pass reads this once, when it enters the decoder; from there a `KnowledgeCall` is passed to the layers in
their keyword arguments, also when autograd runs a layer again.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kblam.adapter import KnowledgeAdapter
from kblam.errors import KnowledgeError
from kblam.models import current
from kblam.models.current import SCOPES
from kblam.models.source import KnowledgeSource
from kblam_kernels import DenseKnowledge, LatentKnowledge, RectangularAttention

if TYPE_CHECKING:
    from kblam.models.attach import Attachment

Observer = Callable[..., None]
_Asked = tuple["weakref.ref[DenseKnowledge | LatentKnowledge]", RectangularAttention | None]


@dataclass(frozen=True, eq=False)
class KnowledgeCall:
    """What one call attends to beside its prompt.

    Args:
        source: the knowledge.
        bias, knowledge_range, question: as `Attachment.using` takes them.
        observer: called after the attention of the evidence layer.
        newest: a pass ends at the evidence layer, whose attention is computed for so many of the last tokens alone;
            None for all tokens of a pass that goes on.
        probe: called before every attention of the model, with what it is asked for, see `proof.py`.
        each: how many rows of a batch belong to each row of bias, range, question and knowledge, see `rows_of_each`.
    """

    source: KnowledgeSource
    bias: Tensor | float = 0.0
    knowledge_range: Tensor | None = None
    question: Tensor | None = None
    observer: Observer | None = None
    newest: int | None = None
    probe: Callable[..., None] | None = None
    each: int | None = 1
    # By thread and layer: the last knowledge, and its attention from the second use on. Threads may share a call.
    _asked: dict[tuple[int, int], _Asked] = field(default_factory=dict, repr=False)
    # By layer: what the question adds to its queries, computed at the first step and used at every other.
    _question_parts: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        # What it remembers is for this object's threads and layers alone.
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state, _asked={}, _question_parts={})

    def question_part(self, adapter: KnowledgeAdapter, layer: int, *, may_change: bool) -> Tensor | None:
        """What the question adds to the queries of a layer, (B, Hq * D); None without a question.

        Args:
            may_change: the adapter's weights may, so that nothing is kept for the next step.
        """
        if self.question is None:
            return None
        if may_change or torch.is_grad_enabled() or torch.compiler.is_compiling():
            return adapter.question_part(layer, self.question)
        if layer not in self._question_parts:
            self._question_parts[layer] = adapter.question_part(layer, self.question)
        return self._question_parts[layer]

    def attention(
        self,
        layer: int,
        knowledge: DenseKnowledge | LatentKnowledge,
        make: Callable[[DenseKnowledge | LatentKnowledge], RectangularAttention],
    ) -> RectangularAttention:
        """The layer's attention object from the last step, if it is about the same knowledge, with its inputs checked.

        It is kept from the second use on: materialised keys and values, made for one forward pass, must be freed.
        """
        if torch.compiler.is_compiling():
            return make(knowledge)
        key = threading.get_ident(), layer
        asked, kept = self._asked.get(key, (None, None))
        again = asked is not None and asked() is knowledge
        if again and kept is not None:
            return kept
        attend = make(knowledge)
        self._asked[key] = weakref.ref(knowledge), attend if again else None
        return attend


@dataclass(frozen=True, eq=False)
class Scope:
    """What a `with` block sets for one attachment.

    Args:
        owner: the attachment.
        call: its knowledge; None for no knowledge, or if the attachment's default applies.
        is_default: whether the attachment's default applies.
        observer: the block's observer.
        outer: the block around it.
        each: how many rows of a batch `generate` makes of each, where this is a call of it; None where nobody knows.
        newest: as `KnowledgeCall` has it.

    Attributes:
        key: of the block, whatever is around it.
        has_ended: whether the block has: a task that began in it, or the thread of a generator that was closed in
            another one, may still find it.
    """

    owner: Attachment
    call: KnowledgeCall | None
    is_default: bool
    observer: Observer | None
    outer: Scope | None
    each: int | None = 1
    newest: int | None = None
    key: object = field(default_factory=object)
    has_ended: list[bool] = field(default_factory=lambda: [False])


def innermost(owner: Attachment) -> Scope | None:
    """The innermost block of this thread or task that is about an attachment."""
    scope: Scope | None = current.scope
    while scope is not None and scope.owner is not owner:
        scope = scope.outer
    return scope


def call_of(owner: Attachment, default: KnowledgeCall | None) -> KnowledgeCall | None:
    """What a call made now attends to; `default` where no block sets anything."""
    scope = innermost(owner)
    if scope is None:
        return default
    if scope.has_ended[0]:
        raise KnowledgeError(
            "the `using` block of this thread's or task's knowledge has ended elsewhere: end it where it began, and "
            "wait within it for the tasks that it starts"
        )
    call = default if scope.is_default else scope.call
    here = (scope.observer, scope.each, scope.newest)
    if call is None or (call.observer, call.each, call.newest) == here:
        return call
    return replace(call, observer=scope.observer, each=scope.each, newest=scope.newest)


def rows_of_each(given: int, batch: int, each: int | None) -> int | None:
    """How many rows of a batch belong to each that the caller gave; None where the two do not fit.

    One is for all. Otherwise a batch that is larger has to be larger because `generate` repeats its rows, or it would
    be shared out by guess.

    Args:
        each: how many `generate` makes of each row of its prompt, 1 outside of one; None where nobody knows: what it
            runs is code of the caller's.
    """
    if given == 1:
        return batch
    if each is None:
        return batch // given if given and batch % given == 0 else None
    return each if given * each == batch else None


def each_now() -> int | None:
    """`each` of the innermost block of this thread or task, whichever attachment it is about."""
    scope: Scope | None = current.scope
    return 1 if scope is None else scope.each


@contextmanager
def knowing(owner: Attachment, call: KnowledgeCall | None) -> Iterator[None]:
    """A block with its own knowledge, or with none."""
    around = innermost(owner)
    observer = None if around is None else around.observer
    with _entered(Scope(owner, call, False, observer, SCOPES.get())):
        yield


@contextmanager
def observing(owner: Attachment, observer: Observer, newest: int | None = None) -> Iterator[None]:
    """A block with an observer; its knowledge is that of the block around it.

    Args:
        newest: as `KnowledgeCall` has it.
    """
    around = innermost(owner)
    call, is_default, each = (None, True, 1) if around is None else (around.call, around.is_default, around.each)
    with _entered(Scope(owner, call, is_default, observer, SCOPES.get(), each, newest)):
        yield


@contextmanager
def generating(owner: Attachment, each: int | None) -> Iterator[None]:
    """A call of `generate` with knowledge in force, which makes `each` rows of every row of its prompt."""
    around = innermost(owner)
    if each == (1 if around is None else around.each):  # nothing that a forward pass has to be told
        yield
        return
    call, is_default, observer = (
        (None, True, None) if around is None else (around.call, around.is_default, around.observer)
    )
    with _entered(Scope(owner, call, is_default, observer, SCOPES.get(), each)):
        yield


@contextmanager
def _entered(scope: Scope) -> Iterator[None]:
    SCOPES.set(scope)
    try:
        yield
    finally:
        scope.has_ended[0] = True
        SCOPES.set(_without(SCOPES.get(), scope.key))


def _without(scope: Scope | None, key: object) -> Scope | None:
    """The blocks around and at `scope` but one: those of generators do not always end in the order they began."""
    if scope is None or scope.key is key:
        return None if scope is None else scope.outer
    outer = _without(scope.outer, key)
    return scope if outer is scope.outer else replace(scope, outer=outer)
