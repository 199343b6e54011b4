"""What the integrations share: a session from files, the question of a conversation, evidence as text."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import uuid4
from weakref import WeakKeyDictionary

import torch

from kblam import shipped
from kblam.adapter import KnowledgeAdapter
from kblam.errors import GenerationError, KblamWarning
from kblam.folder import load_folder, load_model
from kblam.generation import Answer, Evidence, Session
from kblam.generation.pieces import Wanted
from kblam.knowledge.triples import key_text
from kblam.models.judging import CANDIDATES
from kblam.stops import STOPS

# The numbers of each setting. A temperature of 0 is greedy, and what is nearly 0 overflows.
_POSSIBLE: dict[str, tuple[type, float, float]] = {
    "max_tokens": (Integral, 1, 10**6),
    "temperature": (Real, 0.01, 2),
    "top_p": (Real, 0, 1),
    "seed": (Integral, 0, 2**63 - 1),
}
# What happens to messages before the last one.
Earlier = Literal["ignore", "refuse"]
Message = TypeVar("Message")


def open_session(
    knowledge_base: str | Path | None = None,
    *,
    model: str | Path = shipped.SMOLLM2,
    adapter: str | Path | None = None,
    unknown: Literal["auto", "refuse", "base"] | None = "auto",
    device: str | None = None,
) -> Session:
    """A session from files; its knowledge base stays open as long as it is used.

    Args:
        knowledge_base: a file that `kblam kb build` wrote; None only for a model folder, which has its own.
        model: "smollm2" or "tiny", whose adapters come with kblam; a model folder that `kblam integrate` wrote; or a
            base model, with `adapter`.
        adapter: folder or hub name.
        unknown: what happens to a question that no triple answers, see `Session`.
        device: None is cuda where there is one, else cpu.

    Raises:
        GenerationError: the knowledge base is missing, or `unknown` cannot be.
        StoreError, AdapterFormatError, ModelFolderError: a part cannot be read.
        EncoderMismatchError, UnsupportedModelError: the parts do not belong together.
    """
    parts = shipped.parts_of(str(model)) if adapter is None else (str(model), adapter)
    if parts is None:
        loaded = load_folder(model, knowledge_base=knowledge_base, device=device, read_only=True)
    elif knowledge_base is None:
        raise GenerationError(f"knowledge_base is missing: {model} is no model folder with one of its own")
    else:
        dtype = torch.float32 if model == shipped.TINY else None
        loaded = load_model(*parts, knowledge_base, device=device, dtype=dtype, read_only=True)
    return Session(loaded.model, loaded.knowledge_base, tokenizer=loaded.tokenizer, unknown=unknown)


def model_name(session: Session) -> str:
    """The name or folder that the model was loaded from."""
    return str(session.model.config._name_or_path or type(session.model).__name__)


def identity_of(session: Session) -> dict[str, Any]:
    """What its answers depend on beside the question, as plain values: for whoever keeps answers.

    A knowledge base in memory is another one in each process.
    """
    base, adapter = session.knowledge_base, session.attachment.adapter
    return {
        "model_name": model_name(session),
        "adapter": _once(adapter, lambda: _digest(adapter)),
        "knowledge_base": _once(base, lambda: uuid4().hex) if base.path is None else str(base.path),
        "revision": base.revision,
        "unknown": session.unknown,
        "known_above": session.known_above,
    }


_ONCE: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def _once(thing: Any, make: Callable[[], str]) -> str:
    found = _ONCE.get(thing)
    return _ONCE.setdefault(thing, make()) if found is None else found


def _digest(adapter: KnowledgeAdapter) -> str:
    found = hashlib.sha256(str(adapter.config).encode())
    for name, weight in adapter.state_dict().items():
        found.update(name.encode())
        found.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def question_of(messages: Sequence[Message], turn: Callable[[Message], tuple[str, str]], earlier: Earlier) -> str:
    """The question of a conversation: its last message, since a question to a knowledge base stands alone.

    Args:
        messages: of any kind.
        turn: (role, text) of a message; only of the last one, so the others may hold anything.
        earlier: "ignore" leaves the messages before it unread, with a warning; "refuse" raises for them.

    Raises:
        GenerationError: there is no message, the last one is not the user's or cannot be read, or there are others and
            `earlier` refuses.
    """
    role, text = turn(messages[-1]) if messages else ("", "")
    if role != "user":
        raise GenerationError("the last message must be the user's; the answer to it comes next")
    if len(messages) > 1:
        if earlier == "refuse":
            raise GenerationError(
                f"{len(messages) - 1} messages before the question, and a question to a knowledge base stands alone: "
                "send the user's message alone, or set earlier='ignore'"
            )
        warnings.warn("a question to a knowledge base stands alone: earlier messages are not read", KblamWarning, 3)
    return text


def wanted_for(settings: Mapping[str, Any], given: Mapping[str, Any], stops: str | Sequence[str] | None) -> Wanted:
    """How an answer is wanted, of an object's settings and of what one call changes.

    Args:
        settings: max_tokens, temperature, top_p and seed of the object.
        given: the same of the call; None changes nothing.
        stops: strings before which the answer ends.

    Raises:
        GenerationError: the call has another argument, or a value cannot be.
    """
    if unknown := sorted(given.keys() - settings.keys()):
        raise GenerationError(f"{unknown[0]!r} is nothing that can be asked for; possible are {', '.join(settings)}")
    chosen = {name: default if given.get(name) is None else given[name] for name, default in settings.items()}
    for name, (kind, least, most) in _POSSIBLE.items():
        number = chosen[name]
        is_number = isinstance(number, kind) and not isinstance(number, bool)
        if number is not None and not (
            is_number and (least <= number <= most or (name == "temperature" and not number))
        ):
            what = f"{'0 or ' if name == 'temperature' else ''}a {'' if kind is Real else 'whole '}number"
            raise GenerationError(f"{name} must be {what} of {least} .. {most:,}, got {number!r}")
    if chosen["top_p"] is None:
        chosen["top_p"] = 1.0
    elif chosen["temperature"] is None and chosen["top_p"] < 1:  # all of the probability is no wish to sample
        chosen["temperature"] = 1.0
    ends = (stops,) if isinstance(stops, str) else tuple(stops or ())
    return Wanted(chosen["max_tokens"], chosen["temperature"], chosen["top_p"], chosen["seed"], ends)


def evidence_of(session: Session, question: str, most: int) -> tuple[Answer, tuple[Evidence, ...]]:
    """What a question finds, the triples that answer first, at the price of one token.

    Args:
        most: triples, at most `CANDIDATES`.

    Raises:
        GenerationError: `most` cannot be, or as `Session.ask`.
    """
    if not 1 <= most <= CANDIDATES:
        raise GenerationError(f"evidence is of 1 .. {CANDIDATES} triples, got {most!r}")
    if session.unknown == "base":
        # The base model's answer rests on nothing.
        unknown: Literal["refuse"] | None = "refuse" if session.attachment.config.refusal.strip() else None
        session = Session(
            session.model,
            session.knowledge_base,
            tokenizer=session.tokenizer,
            unknown=unknown,
            known_above=session.known_above,
        )
    answer = session.ask(question, top=most, max_new_tokens=1)
    return answer, answer.evidence


def as_text(evidence: Evidence) -> str:
    """A fact as a sentence, for a prompt or an index."""
    triple = evidence.triple
    sentence = f"{key_text(triple.name, triple.property)} is {triple.value}"
    return sentence[0].upper() + sentence[1:] + ("" if sentence.endswith(tuple(STOPS)) else ".")


def as_metadata(answer: Answer, evidence: Evidence) -> dict[str, Any]:
    """What belongs to a fact that was found, as plain values."""
    return {
        "name": evidence.triple.name,
        "property": evidence.triple.property,
        "value": evidence.triple.value,
        "mass": evidence.mass,
        "known": answer.known,
        "confidence": answer.confidence,
        "sources": [source.to_record() for source in evidence.triple.sources],
    }


def finish_reason(answer: Answer) -> str:
    """In the words of OpenAI."""
    return "length" if answer.is_cut else "stop"
