"""The device copies of knowledge bases that an attached model keeps, for any number of threads.

A copy belongs to one attachment and one knowledge base, and has versions. A version changes only while nobody reads it.
A question that finds the newest one out of date brings it up to date, or, while others read it, makes the next one
beside it: who began before goes on with what it began with, and nobody waits for anybody's answer. Of several questions
at once one makes it, and the others wait for that. An older version is freed with its last reader.

An attachment keeps the `KEPT` copies that were used last, or as many as `keep` says, and those that are being read. A
copy is freed when its knowledge base or its attachment is gone. If there is no room for a new copy or version, all
copies that nobody reads are freed. If there still is none, a question waits for readers of older versions to leave, but
not for those around itself, nor for ever.
"""

from __future__ import annotations

import functools
import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

import torch

from kblam.errors import DeviceFullError, KnowledgeError
from kblam.knowledge import KnowledgeBase
from kblam.models.resident import ResidentKnowledge
from kblam_kernels import UnsupportedInputError

if TYPE_CHECKING:
    from kblam.models.attach import Attachment

logger = logging.getLogger("kblam")

KEPT = 4
# Seconds without a reader leaving after which a question that needs room gives up: a reader may wait for it, too. And
# after which it says that it waits, or a program would stand still for minutes without a word.
PATIENCE, QUIET = 300.0, 5.0
_NO_ROOM = (KnowledgeError, UnsupportedInputError, torch.OutOfMemoryError)
_Made = TypeVar("_Made")


class _Reader:
    """A block that reads a version."""

    def __init__(self) -> None:
        self.thread = threading.get_ident()

    @property
    def is_around(self) -> bool:
        """Whether the block cannot end before what is done here does: it is around it, or of this thread's."""
        return self.thread == threading.get_ident() or self in _AROUND.get()


# The blocks of this thread or task. `asyncio.to_thread` passes them on; a pool's threads know nothing of them.
_AROUND: ContextVar[tuple[_Reader, ...]] = ContextVar("kblam_readers", default=())


class _Copy:
    """The versions of one copy.

    Attributes:
        newest: the version that the next reader gets, if it is up to date.
        readers: who reads which version; the older ones are kept here alone.
        is_making: whether a thread makes the next version or changes the newest; nobody begins to read meanwhile.
        made: how often that has succeeded.
    """

    def __init__(self, knowledge_base: KnowledgeBase) -> None:
        self.turn = threading.Condition()
        self.newest: ResidentKnowledge | None = None
        self.readers: dict[_Reader, ResidentKnowledge] = {}
        self.is_making, self.made = False, 0
        self.of = weakref.ref(knowledge_base, functools.partial(_free, weakref.ref(self)))

    def is_read(self, version: ResidentKnowledge) -> bool:
        """Whether anybody reads a version."""
        with self.turn:
            return version in self.readers.values()

    def begin(self, reader: _Reader, version: ResidentKnowledge) -> ResidentKnowledge:
        """The version, which the reader now reads."""
        self.readers[reader] = version
        return version

    def publish(self, reader: _Reader, version: ResidentKnowledge) -> ResidentKnowledge:
        """As `begin`, of a version that its thread has made."""
        with self.turn:
            self.newest = version
            self.made += 1
            return self.begin(reader, version)

    def end(self, reader: _Reader) -> None:
        """The reader reads no more, if it did."""
        with self.turn:
            self.readers.pop(reader, None)
            self.turn.notify_all()

    @contextmanager
    def making(self) -> Iterator[None]:
        """For the thread that has set `is_making`."""
        try:
            yield
        finally:
            with self.turn:
                self.is_making = False
                self.turn.notify_all()

    def wait_for_room(self, made: int, readers: frozenset[_Reader], lacks: str) -> None:
        """Returns as soon as one of these readers has left, or the newest version is another than after `made`.

        Args:
            lacks: what the device said.

        Raises:
            DeviceFullError: that cannot be, because of a block around this question; or nobody leaves.
        """
        with self.turn:
            around = [version for reader, version in self.readers.items() if reader.is_around]
            if around and (self.newest is None or self.newest in around):
                raise _full("by a block around this question: end that block before you ask again", lacks)

            def has_changed() -> bool:
                return self.made != made or not readers <= self.readers.keys()

            if self.turn.wait_for(has_changed, min(QUIET, PATIENCE)):
                return
            logger.warning(
                "a question waits, up to %g s, for an answer in progress, or a block over its knowledge base, to end: "
                "the knowledge base has changed, and there is no room on the device for a second copy of it. A block "
                "that itself waits for this question has to end first",
                PATIENCE,
            )
            if not self.turn.wait_for(has_changed, PATIENCE - min(QUIET, PATIENCE)):
                raise _full(
                    f"by others, of whom none has ended for {PATIENCE:g} s: a block must not wait for a question of "
                    "another thread about what has changed within it",
                    lacks,
                )


def _full(by_whom: str, lacks: str) -> DeviceFullError:
    return DeviceFullError(
        "the knowledge base has changed, and there is no room on the device for a second copy of it while the first is "
        f"read {by_whom}; or make room: attach(..., storage='int8'), fewer knowledge bases at once. The device says: "
        + lacks
    )


def _free(copy: weakref.ref[_Copy], _: object) -> None:
    """Frees the device memory. The entry is removed at the next question, because this callback may run at any time."""
    if (gone := copy()) is not None:
        gone.newest = None


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

    A block within it, of whatever thread or task, sees what has changed meanwhile: it gets another copy then.

    Raises:
        DeviceFullError: the knowledge base has changed, and the device has no room for a second copy beside the one
            that is read by a block around this one, or by others for minutes.
        EncoderMismatchError: if the knowledge base was built with another encoder than the adapter's.
        KnowledgeError, UnsupportedInputError: if it does not fit the device, see `ResidentKnowledge`.
    """
    copy, reader = _copy_of(attachment, knowledge_base), _Reader()
    try:
        resident = _begin(copy, reader, attachment, knowledge_base)
        _AROUND.set((*_AROUND.get(), reader))
        yield resident
    finally:
        # The block of a generator may end out of order, or in another context.
        _AROUND.set(tuple(other for other in _AROUND.get() if other is not reader))
        copy.end(reader)


def resident_for(attachment: Attachment, knowledge_base: KnowledgeBase) -> ResidentKnowledge:
    """The copy of a knowledge base for an attached model, brought up to date; for one thread, see `reading`.

    The next call returns the same object, as long as it is kept, and unless the knowledge base changes while others
    read it.
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
        idle = [other for other, copy in copies.items() if other != name and not copy.readers]
        for other in idle[: max(0, len(copies) - _KEPT.get(attachment, KEPT))]:
            del copies[other]
        return copies[name]


def _begin(copy: _Copy, reader: _Reader, attachment: Attachment, knowledge_base: KnowledgeBase) -> ResidentKnowledge:
    """The up-to-date version, which the reader now reads."""
    while True:
        with copy.turn:
            copy.turn.wait_for(lambda: not copy.is_making)
            if copy.newest is not None and not _is_behind(copy.newest, attachment, knowledge_base):
                return copy.begin(reader, copy.newest)
            copy.is_making, made, others = True, copy.made, frozenset(copy.readers)
        with copy.making():
            try:
                return copy.publish(reader, _next(copy, attachment, knowledge_base))
            except (DeviceFullError, torch.OutOfMemoryError) as error:
                if not others:
                    raise
                lacks = (str(error) or type(error).__name__).splitlines()[0]
        # Not within either block: the error keeps what it met half made, and who is waited for may have to ask.
        copy.wait_for_room(made, others, lacks)


def _is_behind(resident: ResidentKnowledge, attachment: Attachment, knowledge_base: KnowledgeBase) -> bool:
    if not _is_where_the_model_is(resident, attachment):
        return True
    return resident.revision != knowledge_base.revision or not resident.is_current


def _is_where_the_model_is(resident: ResidentKnowledge, attachment: Attachment) -> bool:
    return (resident.dtype, resident.device) == (attachment.model.dtype, attachment.device)


def _next(copy: _Copy, attachment: Attachment, knowledge_base: KnowledgeBase) -> ResidentKnowledge:
    """The newest version, brought up to date, or the one after it; for the thread that has set `is_making`."""
    newest = copy.newest
    if newest is not None and not _is_where_the_model_is(newest, attachment):
        copy.newest = newest = None  # frees the old one, unless it is read, before the new one is made
    if newest is not None and not copy.is_read(newest):
        _with_room(newest.sync, attachment, copy)
        return newest
    if newest is not None and newest.is_current:
        return _with_room(newest.twin, attachment, copy)
    # A strong reference in the copy, which is kept here, would keep the knowledge base alive for ever.
    return _made(attachment, weakref.proxy(knowledge_base), copy)


def _made(attachment: Attachment, knowledge_base: KnowledgeBase, but: _Copy | None) -> ResidentKnowledge:
    """A new copy; see `_with_room`."""
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

    return _with_room(make, attachment, but)


def _with_room(make: Callable[[], _Made], attachment: Attachment, but: _Copy | None) -> _Made:
    """What `make` makes; to make room for it, all copies that nobody reads are freed, except `but`."""
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
        idle = [name for name, copy in copies.items() if copy is not but and not copy.readers]
        for name in idle:
            del copies[name]
    return bool(idle)
