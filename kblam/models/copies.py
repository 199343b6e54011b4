"""The device copies of knowledge bases that an attached model keeps, for any number of threads.

A copy belongs to one attachment and one knowledge base. It is changed only while nobody reads it. A question that
finds it out of date waits for running answers, and later questions wait too.

An attachment keeps the `KEPT` copies that were used last, or as many as `keep` says, and those that are being read. A
copy is freed when its knowledge base or its attachment is gone. If there is no room for a new copy, all copies that
nobody reads are freed.
"""

from __future__ import annotations

import functools
import threading
import weakref
from collections import Counter, OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from kblam.errors import KnowledgeError
from kblam.knowledge import KnowledgeBase
from kblam.models.resident import ResidentKnowledge
from kblam_kernels import UnsupportedInputError

if TYPE_CHECKING:
    from kblam.models.attach import Attachment

KEPT = 4
_NO_ROOM = (KnowledgeError, UnsupportedInputError, torch.OutOfMemoryError)


class _Copy:
    """One copy, and the threads that read it."""

    def __init__(self, knowledge_base: KnowledgeBase) -> None:
        self.turn = threading.Condition()
        self.readers: Counter[int] = Counter()  # by thread
        self.resident: ResidentKnowledge | None = None
        self.of = weakref.ref(knowledge_base, functools.partial(_free, weakref.ref(self)))


def _free(copy: weakref.ref[_Copy], _: object) -> None:
    """Frees the device memory. The entry is removed at the next question, because this callback may run at any time."""
    if (gone := copy()) is not None:
        gone.resident = None


# By attachment, then by the id of a knowledge base, the one used last at the end. Kept beside the model and not on it:
# locks and open files cannot be copied or pickled with a model.
_COPIES: weakref.WeakKeyDictionary[Attachment, OrderedDict[int, _Copy]] = weakref.WeakKeyDictionary()
_KEPT: weakref.WeakKeyDictionary[Attachment, int] = weakref.WeakKeyDictionary()
_LOCK = threading.Lock()


def keep(attachment: Attachment, count: int) -> None:
    """Has an attachment keep so many copies, for a server that asks all of its knowledge bases in turn."""
    with _LOCK:
        _KEPT[attachment] = count


@contextmanager
def reading(attachment: Attachment, knowledge_base: KnowledgeBase) -> Iterator[ResidentKnowledge]:
    """The up-to-date copy of a knowledge base, which does not change until the end of the block.

    Raises:
        EncoderMismatchError: if the knowledge base was built with another encoder than the adapter's.
        KnowledgeError, UnsupportedInputError: if it does not fit the device, see `ResidentKnowledge`.
    """
    me, copy = threading.get_ident(), _copy_of(attachment, knowledge_base)
    with copy.turn:
        # A thread that asks again in the middle of its own answer would wait for itself.
        if not copy.readers[me]:
            while copy.readers.total() and _is_behind(copy.resident, attachment, knowledge_base):
                copy.turn.wait()
            if _is_behind(copy.resident, attachment, knowledge_base):
                _bring_up(copy, attachment, knowledge_base)
        assert copy.resident is not None
        resident = copy.resident
        copy.readers[me] += 1
    try:
        yield resident
    finally:
        with copy.turn:
            copy.readers[me] -= 1
            copy.readers += Counter()  # forgets threads that read nothing any more
            copy.turn.notify_all()


def resident_for(attachment: Attachment, knowledge_base: KnowledgeBase) -> ResidentKnowledge:
    """The copy of a knowledge base for an attached model, brought up to date; for one thread, see `reading`.

    The next call returns the same object, as long as it is kept.
    """
    with reading(attachment, knowledge_base) as resident:
        return resident


def copy_of(attachment: Attachment, knowledge_base: KnowledgeBase) -> ResidentKnowledge:
    """A copy of a knowledge base as it is now, which nobody else reads or brings up to date.

    Raises:
        As `reading`.
    """
    return _made(attachment, knowledge_base, None)


def _copy_of(attachment: Attachment, knowledge_base: KnowledgeBase) -> _Copy:
    """The copy, made or moved to the end of those that are kept."""
    with _LOCK:
        if attachment not in _COPIES:
            _COPIES[attachment] = OrderedDict()
        copies, name = _COPIES[attachment], id(knowledge_base)
        for gone in [other for other, copy in copies.items() if copy.of() is None]:
            del copies[gone]
        if name not in copies:
            copies[name] = _Copy(knowledge_base)
        copies.move_to_end(name)
        idle = [other for other, copy in copies.items() if other != name and not copy.readers.total()]
        for other in idle[: max(0, len(copies) - _KEPT.get(attachment, KEPT))]:
            del copies[other]
        return copies[name]


def _is_behind(resident: ResidentKnowledge | None, attachment: Attachment, knowledge_base: KnowledgeBase) -> bool:
    if resident is None or (resident.dtype, resident.device) != (attachment.model.dtype, attachment.device):
        return True
    return resident.revision != knowledge_base.revision or not resident.is_current


def _bring_up(copy: _Copy, attachment: Attachment, knowledge_base: KnowledgeBase) -> None:
    """Brings the copy up to date, or makes it; nobody may read it meanwhile."""
    dtype, device, resident = attachment.model.dtype, attachment.device, copy.resident
    if resident is not None and (resident.dtype, resident.device) == (dtype, device):
        resident.sync()
        return
    copy.resident = resident = None  # frees the old one before the new one is made
    # A strong reference in the copy, which is kept here, would keep the knowledge base alive for ever.
    copy.resident = _made(attachment, weakref.proxy(knowledge_base), copy)


def _made(attachment: Attachment, knowledge_base: KnowledgeBase, but: _Copy | None) -> ResidentKnowledge:
    """A new copy; to make room for it, all that nobody reads are freed, except `but`."""

    device = attachment.device
    # A model may have been moved since. The copy is projected where it will lie, and once: moved weights are others.
    attachment.follow(device)

    def make() -> ResidentKnowledge:
        return ResidentKnowledge(
            knowledge_base,
            attachment.adapter,
            dtype=attachment.model.dtype,
            device=device,
            storage=attachment.options.storage,
            plan=attachment.options.plan,
        )

    try:
        return make()
    except _NO_ROOM:
        if not _drop_idle(attachment, but):
            raise
    # Not within the block: the error keeps what it met half made until it ends.
    return make()


def _drop_idle(attachment: Attachment, but: _Copy | None) -> bool:
    """Frees all copies of an attachment that nobody reads; returns whether there were any."""
    with _LOCK:
        copies = _COPIES.get(attachment, OrderedDict())
        idle = [name for name, copy in copies.items() if copy is not but and not copy.readers.total()]
        for name in idle:
            del copies[name]
    return bool(idle)
