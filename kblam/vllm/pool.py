"""The latents of all knowledge bases of an engine: one list, in which each version of a base has a span of rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from kblam.adapter import KnowledgeAdapter
from kblam.errors import EncoderMismatchError, EngineError
from kblam.knowledge import KnowledgeBase
from kblam.knowledge.rows import MIN_CAPACITY, DeviceRows, room_for
from kblam.models.checks import called, check_encoder
from kblam.models.formats import LatentFormat, storage_dtype
from kblam.vllm.registry import Loaded, Registry, file_at
from kblam.vllm.saying import Sayings
from kblam.vllm.settings import Settings, check_name
from kblam.vllm.spans import Span, Spans
from kblam_kernels import LatentKnowledge, LatentProjection

if TYPE_CHECKING:
    from kblam.vllm.step import RequestKnowledge

# In an engine's table of layers, where what belongs to a forward pass is found.
NAME = "kblam.knowledge"
_FAILED = -1
_TRIES = 100  # to find a base unchanged in all workers


@dataclass(eq=False)
class Version:
    """A knowledge base as it was at one revision, in the pool.

    Args:
        name: that requests choose it by.
        base: the file, open.
        rows: its triples, in `room`.
        room: the pool's rows that it has.
        loaded: what the other processes know of it.
    """

    name: str
    base: KnowledgeBase
    rows: DeviceRows
    room: Room
    loaded: Loaded

    @property
    def span(self) -> tuple[int, int]:
        """[start, stop) of the pool."""
        start = self.room.start
        return start, start + self.rows.count


class Room:
    """A span of the pool, as the rows of one version; it is a `RowFormat`.

    Growing takes a new span, and the old one is given back by `settle`.
    """

    def __init__(self, pool: KnowledgePool) -> None:
        self._pool = pool
        self._spans: list[Span] = []

    @property
    def start(self) -> int:
        """The pool's row that is the first one here."""
        return self._spans[-1].start

    def allocate(self, rows: int) -> dict[str, Tensor]:
        """Zeros of `rows` rows, views of the pool's buffers."""
        self._spans.append(self._pool.spans.take(rows))
        return self._spans[-1].parts

    def encode(self, key: Tensor, value: Tensor) -> dict[str, Tensor]:
        """As the pool's format has it."""
        return self._pool.form.encode(key, value)

    def settle(self) -> None:
        """Gives back what was outgrown."""
        self._pool.spans.give_back(self._spans[:-1])
        del self._spans[:-1]

    def leave(self) -> None:
        """Gives back everything."""
        self._pool.spans.give_back(self._spans)
        self._spans.clear()


class KnowledgePool(nn.Module):
    """Knowledge of one worker. Latents are whole in every worker; of the projections it has those of its heads.

    Everything is in buffers that are as large as they will be from the start: vLLM counts them as weights when it
    measures how much memory there is for its cache, and they are what it saves when it sleeps (level 2).

    Args:
        settings: of the engine.
        adapter: in float32, on the CPU.
        registry: of the engine; one worker tells it what there is.
        dtype, device: of the model.
        heads: query heads of this worker.
        tells: whether this is the worker that does.
        together: gives each worker's number to all of them, in their order; this is the only worker without it.

    Attributes:
        latents: by name, `capacity` rows each.
        capacity: rows.
        spans: of them, that versions have.
        places: on the V1 runner, what the requests at the places of its batch attend to.
        found: evidence of the step that ran last, by request: ids of triples, and their masses.
        sayings: what requests are to say.

    Raises:
        EngineError: a base does not fit.
        KblamError: as `KnowledgeBase.open` and `check_encoder`.
    """

    def __init__(
        self,
        settings: Settings,
        adapter: KnowledgeAdapter,
        registry: Registry,
        *,
        dtype: torch.dtype,
        device: torch.device,
        heads: slice,
        tells: bool,
        together: Callable[[int], list[int]] = lambda mine: [mine],
    ) -> None:
        super().__init__()
        config = adapter.config
        self.config, self.settings, self.device = config, settings, device
        self.heads, self._dtype = heads, dtype
        self._adapter = (adapter.to(device),)  # its weights are none of the checkpoint's
        self._registry, self._tells, self._together = registry, tells, together
        self._current: dict[str, Version] = {}
        self._versions: dict[int, Version] = {}
        self._generation = 0
        # V1: what each place of the persistent batch attends to. `tracker.py` follows it.
        self.places: dict[int, RequestKnowledge] = {}
        # The evidence of this step: by request, ids of triples and their masses.
        self.found: dict[str, list[tuple[int, float]]] = {}
        self.sayings = Sayings(device)
        self.form = LatentFormat(adapter, dtype, device, storage_dtype(settings.storage, adapter, dtype))
        self.capacity = _capacity(settings)
        self.latents = self.form.allocate(self.capacity)
        self.spans = Spans(self.latents)
        for name, buffer in self.latents.items():
            self.register_buffer(name.replace(" ", "_"), buffer, persistent=False)
        self._layers = {layer: self._of_layer(layer) for layer in config.knowledge_layers}
        for number, tensor in enumerate(self._other_tensors()):
            self.register_buffer(f"other_{number}", tensor, persistent=False)
        for name, path in settings.knowledge.items():
            self.load(name, path)
        self._say(self._current)

    def _of_layer(self, layer: int) -> LatentKnowledge:
        whole = self.form.layer(layer, self.latents)
        p = whole.projection
        mine = (part[self.heads].contiguous() for part in (p.key_weight, p.key_bias, p.value_weight, p.value_bias))
        return dataclasses.replace(whole, projection=LatentProjection(*mine))

    def _other_tensors(self) -> list[Tensor]:
        """All that it has beside the latents, each once: a worker with all heads has whole projections."""
        parts = ("key_weight", "key_bias", "value_weight", "value_bias")
        projections = [getattr(one.projection, part) for one in self._layers.values() for part in parts]
        weights = [weight.detach() for weight in self._adapter[0].state_dict(keep_vars=True).values()]
        found = [*weights, *self.form.tensors, *projections]
        return list({(one.data_ptr(), one.shape): one for one in found}.values())

    def layer(self, layer: int) -> LatentKnowledge:
        """All rows, as one layer reads them with this worker's heads."""
        return self._layers[layer]

    def query_weight(self, layer: int) -> Tensor | None:
        """(heads * D, hidden) of a layer's knowledge query, made anew; None where it is the prompt's own."""
        (adapter,), config = self._adapter, self.config
        if not config.separate_query_head:
            return None
        weight = cast(nn.Linear, adapter.query_heads[str(layer)]).weight.detach()
        mine = weight.view(config.num_heads, config.head_dim, -1)[self.heads].flatten(0, 1)
        return mine.to(self.device, self._dtype).contiguous()

    @torch.no_grad()
    def question_parts(self, vector: tuple[float, ...]) -> dict[int, Tensor]:
        """By layer, what a question adds to the knowledge queries of its request, (heads, D)."""
        (adapter,), config = self._adapter, self.config
        question = torch.tensor([vector], dtype=torch.float32, device=self.device)
        return {
            layer: adapter.question_part(layer, question).view(config.num_heads, config.head_dim)[self.heads]
            for layer in config.knowledge_layers
        }

    def batch(self, requests: int) -> list[RequestKnowledge | None]:
        """What the first requests of V1's batch attend to."""
        return [self.places.get(place) for place in range(requests)]

    # --- bases -------------------------------------------------------------------------------------------

    def bases(self) -> dict[str, Loaded]:
        """What requests may choose now."""
        return {name: version.loaded for name, version in self._current.items()}

    def bytes_of(self, name: str) -> int:
        """What a base's newest version takes in the pool, spare rows included."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self._current[name].rows.buffers.values())

    def rows_of(self, name: str) -> int:
        """Rows of the pool that a base's newest version takes, spare ones included."""
        return self._current[name].rows.capacity

    def version(self, generation: int) -> Version:
        """A version that an unfinished request attends to."""
        return self._versions[generation]

    @torch.no_grad()
    def load(self, name: str, path: str) -> Loaded:
        """Adds a base, or another file under a name that was there.

        Raises:
            EngineError: the name cannot be, there is no room, or another worker failed; nothing has changed.
            KblamError: as `KnowledgeBase.open` and `check_encoder`; nothing has changed.
        """
        check_name(name)
        if not isinstance(path, str) or not path:
            raise EngineError(f"the knowledge base {name!r} needs the path of its file; got {path!r:.80}")
        opened: list[KnowledgeBase] = []

        def begin() -> int:
            opened.append(KnowledgeBase.open(path, read_only=True))
            check_encoder(self.config, opened[0])
            self._check_like_others(name, opened[0])
            return opened[0].dimension

        try:
            self._all(begin)
            (base,) = opened
            return self._put(name, base, lambda room: DeviceRows(base.dimension, room, self.device))
        except BaseException:
            for base in opened:
                base.close()
            raise

    @torch.no_grad()
    def update(self, name: str) -> Loaded:
        """Follows what has changed in a base's file: later requests see it, those in progress do not.

        Raises:
            EngineError: there is no such base, no room for it beside the version in use, or another worker failed;
                nothing has changed.
            KblamError: the file cannot be read; nothing has changed.
        """
        version = self._of(name)
        if set(self._all(lambda: version.base.revision)) == {version.loaded.revision}:
            return version.loaded
        return self._put(name, version.base, version.rows.copy)

    def unload(self, name: str) -> None:
        """Takes a base away: later requests are refused, those in progress are answered.

        Raises:
            EngineError: there is no such base.
        """
        self._of(name)
        left = {other: version for other, version in self._current.items() if other != name}
        self._all(lambda: self._say(left))
        self._current = left
        self._sweep()

    def _check_like_others(self, name: str, base: KnowledgeBase) -> None:
        """One encoder reads the questions to all bases; an adapter may not record which.

        Raises:
            EncoderMismatchError: it is another one's.
        """
        for other, version in self._current.items():
            if other != name and version.loaded.encoder != base.fingerprint:
                raise EncoderMismatchError(
                    f"the knowledge base {name!r} was built with encoder "
                    f"{called(base.fingerprint, base.encoder_spec)}, {other!r} with {called(version.loaded.encoder)}, "
                    "and one encoder reads the questions to all bases of an engine; rebuild one of them, or start an "
                    "engine for each"
                )

    def _of(self, name: str) -> Version:
        if name not in self._current:
            raise EngineError(f"there is no knowledge base {name!r:.80}; there are {sorted(self._current)}")
        return self._current[name]

    def _put(self, name: str, base: KnowledgeBase, make: Callable[[Room], DeviceRows]) -> Loaded:
        """A new version of a base in every worker, of one revision and one generation, or in none."""
        path = str(base.path)
        room, made, file = Room(self), list[DeviceRows](), ""

        def follow() -> int:
            nonlocal file
            if not made:
                self._sweep()
                made.append(make(room))
            file = file_at(path)
            made[0].sync(base)  # fails where that is another file by now than was opened
            return made[0].revision

        try:
            # Each worker reads the file for itself, and others may write to it in between.
            for _ in range(_TRIES):
                if len(set(self._all(follow))) == 1:
                    break
            else:
                raise EngineError(f"the knowledge base {name!r} changes faster than workers follow; try again")
            (rows,) = made
            room.settle()
            loaded = Loaded(rows.revision, self._generation + 1, rows.count, path, file, base.fingerprint)
            version = Version(name, base, rows, room, loaded)
            current = {**self._current, name: version}
            self._all(lambda: self._say(current))
        except BaseException:
            room.leave()
            raise
        self._generation = loaded.generation
        self._versions[loaded.generation] = version
        self._current = current
        return loaded

    def _all(self, work: Callable[[], int]) -> list[int]:
        """What a piece of work gives in each worker, a number from 0; where it fails in one, it fails in all.

        All take the same steps, or a step of the model would find rows in one worker that another does not have.

        Raises:
            EngineError: it failed in another worker.
        """
        failure: Exception | None = None
        try:
            mine = work()
        except Exception as error:
            failure, mine = error, _FAILED
        said = self._together(mine)
        if failure is not None:
            raise failure
        if _FAILED in said:
            raise EngineError(f"it failed in worker {said.index(_FAILED)}, whose log says why; nothing has changed")
        return said

    def _say(self, current: dict[str, Version]) -> int:
        if self._tells:
            self._registry.say_bases({name: version.loaded for name, version in current.items()})
        return 0

    def _sweep(self) -> None:
        """Frees versions that no request attends to any more, nor will; none while nobody knows."""
        in_use = self._registry.in_use()
        if in_use is None:
            return
        needed = in_use | {version.loaded.generation for version in self._current.values()}
        gone = [self._versions.pop(generation) for generation in set(self._versions) - needed]
        for version in gone:
            version.room.leave()
            if all(version.base is not other.base for other in self._versions.values()):
                version.base.close()


def pool_of(vllm_config: Any) -> KnowledgePool | None:
    """The pool of a worker; None before its model was made."""
    found: KnowledgePool | None = vllm_config.compilation_config.static_forward_context.get(NAME)
    return found


def serving_pool(vllm_config: Any) -> KnowledgePool:
    """The pool of a worker.

    Raises:
        EngineError: its model has none, or was not made yet.
    """
    if (found := pool_of(vllm_config)) is None:
        raise EngineError("this worker has no knowledge: its model is not loaded, or is none of kblam's")
    return found


def _capacity(settings: Settings) -> int:
    if settings.capacity is not None:
        return settings.capacity
    if not settings.knowledge:
        raise EngineError("kblam.capacity is missing: without knowledge bases to start with, say how many rows to keep")
    rows = 0
    for path in settings.knowledge.values():
        with KnowledgeBase.open(path, read_only=True) as base:
            rows += 2 * (MIN_CAPACITY + room_for(len(base)))
    return rows
