"""What `additional_config["kblam"]` says, checked."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from kblam.adapter import AdapterConfig
from kblam.errors import EngineError, GenerationError, KnowledgeError
from kblam.generation.decision import Rules, rules_of
from kblam.models.formats import check_storage

NAME = "kblam"
LONGEST_NAME = 128
# vLLM's that have the scheduler and all workers of an engine on one machine.
EXECUTORS = ("uni", "mp")
# What becomes of an unknown question; "model" leaves it to what the model has learned, `Session(unknown=None)`.
UNKNOWN = ("auto", "refuse", "base", "model")


@dataclass(frozen=True)
class Settings:
    """Knowledge of an engine.

    Args:
        adapter: folder, or name on the hub.
        knowledge: files of knowledge bases, by the name that requests choose them by.
        capacity: rows of the pool that all bases share; a row is a triple. A base takes an eighth more than its
            triples, at least 64; while it is updated, and until the requests that began before are answered, twice
            that. None has room for each of `knowledge` twice.
        storage: dtype of the latents, as `kblam.attach` takes it.
        evidence: how many triples of evidence a response has at most.
        unknown: what becomes of a question that the knowledge base does not answer, unless the request says otherwise:
            "auto", "refuse", "base" or "model" (see `rules_of`).
        known_above: the confidence from which a question counts as known; None takes the adapter's.
        digest: of the adapter's config; made at the start, so that a compiled graph is not taken for another adapter's.

    Raises:
        EngineError: a value cannot be.
    """

    adapter: str
    knowledge: dict[str, str] = field(default_factory=dict)
    capacity: int | None = None
    storage: str = "auto"
    evidence: int = 5
    unknown: str = "auto"
    known_above: float | None = None
    digest: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.adapter, str) or not self.adapter:
            raise EngineError(f"{NAME}.adapter must be the folder or hub name of an adapter; got {self.adapter!r}")
        if not isinstance(self.knowledge, dict):
            raise EngineError(
                f"{NAME}.knowledge must name files, as in {{'facts': 'facts.kb'}}; got {self.knowledge!r}"
            )
        for name, path in self.knowledge.items():
            check_name(name)
            if not isinstance(path, str) or not path:
                raise EngineError(f"{NAME}.knowledge[{name!r}] must be the path of a knowledge base file; got {path!r}")
        for label, number in (("capacity", self.capacity), ("evidence", self.evidence)):
            if number is not None and (type(number) is not int or number < 1):
                raise EngineError(f"{NAME}.{label} must be a whole number of at least 1; got {number!r}")
        check_unknown(self.unknown)
        if self.known_above is not None and type(self.known_above) not in (int, float):
            raise EngineError(f"{NAME}.known_above must be a number of 0 .. 1; got {self.known_above!r}")
        try:
            check_storage(self.storage)
        except KnowledgeError as error:
            raise EngineError(f"{NAME}.{error}") from error

    @classmethod
    def of(cls, vllm_config: Any) -> Settings:
        """The settings of an engine.

        Raises:
            EngineError: there are none, or they cannot be.
        """
        given = vllm_config.additional_config
        found = given.get(NAME) if isinstance(given, dict) else None
        if not isinstance(found, dict):
            raise EngineError(
                "a model with knowledge needs additional_config={'kblam': {'adapter': FOLDER, 'knowledge': "
                f"{{'facts': 'facts.kb'}}}}}}; got {given!r}"
            )
        known = {one.name for one in dataclasses.fields(cls)}
        if unknown := sorted(set(found) - known):
            raise EngineError(f"{NAME} has no setting {', '.join(unknown)}; it has {', '.join(sorted(known))}")
        if "adapter" not in found:
            raise EngineError(f"{NAME}.adapter is missing: the folder or hub name of an adapter")
        return cls(**found)

    def rules(self, config: AdapterConfig, unknown: str | None = None) -> Rules:
        """How answers are decided.

        Args:
            config: of the adapter.
            unknown: in place of the engine's.

        Raises:
            EngineError: the adapter has nothing to decide so by.
        """
        chosen: Any = self.unknown if unknown is None else unknown
        try:
            return rules_of(config, None if chosen == "model" else chosen, self.known_above)
        except GenerationError as error:
            raise EngineError(str(error)) from error


def check_unknown(unknown: object) -> None:
    """Refuses what nobody can do with an unknown question.

    Raises:
        EngineError: it is none of `UNKNOWN`.
    """
    if unknown not in UNKNOWN:
        raise EngineError(f"unknown must be one of {', '.join(UNKNOWN)}; got {unknown!r:.80}")


def check_name(name: object) -> None:
    """Refuses what is no name of a knowledge base: it stands in cache salts, responses and model names.

    Raises:
        EngineError: it is none.
    """
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable() or "@" in name:
        raise EngineError(
            f"the name of a knowledge base is 1 to {LONGEST_NAME} printable characters without @; got {name!r:.80}"
        )
