"""A knowledge base on the model's device: laid out as the planner says, updated row by row."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

import torch

from kblam.adapter import KnowledgeAdapter
from kblam.errors import KnowledgeError
from kblam.knowledge import KnowledgeBase, Triple
from kblam.knowledge.rows import DeviceRows, RowFormat
from kblam.models.checks import check_encoder
from kblam.models.formats import DenseFormat, Joined, LatentFormat, latent_width, storage_dtype
from kblam.models.graphs import stay
from kblam.models.weights import State, state_of
from kblam_kernels import DenseKnowledge, LatentKnowledge, Plan, plan
from kblam_kernels.plan import Workload, device_of

# Reading fewer bytes of dense keys and values than this takes less time than measuring a CPU first.
WORTH_MEASURING = 32 * 2**20


def plan_of(
    adapter: KnowledgeAdapter,
    triples: int,
    dtype: torch.dtype,
    device: torch.device,
    *,
    storage: torch.dtype,
    pin: str = "auto",
) -> Plan:
    """The plan for so many triples: what `ResidentKnowledge` holds of them, and what each phase reads.

    Args:
        dtype, device: of the model.
        storage: dtype of latents, see `kblam.models.formats.storage_dtype`.
        pin: as `kblam_kernels.plan` takes it.

    Raises:
        UnsupportedInputError: the pin is not possible.
    """
    config = adapter.config
    shape = Workload(
        triples=triples,
        width=latent_width(adapter, storage),
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        layers=len(config.knowledge_layers),
        element_size=dtype.itemsize,
        latent_size=storage.itemsize,
        absorbable=adapter.is_absorbable,
    )
    return plan(shape, device_of(device, measure=shape.dense_bytes >= WORTH_MEASURING), pin=pin)


class ResidentKnowledge:
    """A knowledge base on a device as its plan has it: latents for all layers, dense keys and values, or both.

    Changing one triple rewrites one row of each buffer in place: no tensor moves, so a captured CUDA graph or a
    compiled model keeps reading the right memory. The number of filled rows and its logarithm are tensors on the
    device for the same reason. When the triples outgrow their room, a new plan is made and the buffers are new.

    Args:
        knowledge_base: the triples; `sync` follows its later changes.
        adapter: what projects them, with the weights it has now.
        dtype, device: of the model.
        storage: dtype of latents, "float16", "bfloat16", "int8", "float8_e4m3fn" or "float32"; "auto" is the
            model's, except float16 for a float32 model with a linear adapter, which loses nothing: the store has
            float16.
        plan: a pin, as `kblam_kernels.plan` takes it.

    Attributes:
        filled: int32 (1, 2), [0, M): the rows in use.
        log_count: float32 (), log M.
        plan: the plan in force; `print` it for the reasons.

    Raises:
        EncoderMismatchError: if the knowledge base was built with another encoder than the adapter's.
        KnowledgeError: if the storage is not known or does not fit the model, or there is no room.
        UnsupportedInputError: if the pin is not possible.
    """

    plan: Plan

    # The first call may run in inference mode; buffers created there could not be written outside it.
    @torch.inference_mode(False)
    def __init__(
        self,
        knowledge_base: KnowledgeBase,
        adapter: KnowledgeAdapter,
        *,
        dtype: torch.dtype,
        device: torch.device,
        storage: str = "auto",
        plan: str = "auto",
    ) -> None:
        check_encoder(adapter.config, knowledge_base)
        self.knowledge_base = knowledge_base
        self.adapter = adapter
        self.dtype = dtype
        self.storage = storage_dtype(storage, adapter, dtype)
        self._pin = plan
        self.filled = torch.zeros(1, 2, dtype=torch.int32, device=device)
        self.device = self.filled.device  # with its number, as the model's
        self.log_count = torch.zeros((), dtype=torch.float32, device=device)
        for number in (self.filled, self.log_count):
            stay(number)
        self._rows: DeviceRows | None = None
        self._weights: State | None = None
        self._revision = 0
        self._latent: LatentFormat | None = None
        # The buffers that these are views of, which an interrupted `sync` may have left behind.
        self._seen: dict[str, torch.Tensor] = {}
        # By layer, and whether attention reads them as keys and values.
        self._latents: dict[tuple[int, bool], LatentKnowledge] = {}
        self._dense: dict[int, DenseKnowledge] = {}
        self.sync()

    @property
    def num_triples(self) -> int:
        """M, the triples in force."""
        return 0 if self._rows is None else self._rows.count

    @property
    def buffers(self) -> dict[str, torch.Tensor]:
        """What is on the device, by name; one row a triple, `filled` of them in use."""
        return {} if self._rows is None else self._rows.buffers

    @property
    def num_bytes(self) -> int:
        """What the buffers take, spare rows included."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self.buffers.values())

    @property
    def revision(self) -> int:
        """Revision of the knowledge base at the last `sync`."""
        return self._revision

    @property
    def is_current(self) -> bool:
        """Whether the adapter projects as it did at the last `sync`: it was not trained, loaded or wrapped since."""
        return self._weights is not None and self._weights.is_that_of(self.adapter)

    @property
    def is_behind(self) -> bool:
        """Whether the knowledge base has changed since the last `sync`."""
        return self.knowledge_base.revision != self.revision

    def stale_places(self) -> frozenset[int]:
        """Knowledge tokens whose triple has changed since the last `sync`, or is gone."""
        if self._rows is None or not self.is_behind:
            return frozenset()
        changed = self.knowledge_base.changed_since(self.revision)
        return frozenset(place for place, one in enumerate(self._rows.ids) if one in changed)

    def __deepcopy__(self, memo: dict[int, Any]) -> ResidentKnowledge:
        """A copy with buffers and an adapter of its own, which follows the same knowledge base."""
        twin = memo[id(self)] = object.__new__(type(self))
        for name, value in vars(self).items():
            setattr(twin, name, value if name == "knowledge_base" else copy.deepcopy(value, memo))
        return twin

    def __reduce__(self) -> NoReturn:
        raise KnowledgeError(
            "knowledge that follows a knowledge base cannot be pickled or saved with a model, since it belongs to an "
            "open file and a device; call attachment.set_knowledge(None) first, and set it again after loading"
        )

    def layer(self, layer: int, new_tokens: int = 1) -> DenseKnowledge | LatentKnowledge:
        """What one layer attends to in a forward pass of so many new tokens a row.

        Its rows from M on are unused, see `filled`.
        """
        path = self.plan.path(new_tokens)
        if path == "dense":
            return self._dense[layer]
        return self._latents[layer, path == "materialise"]

    @torch.inference_mode(False)
    @torch.no_grad()
    def sync(self) -> int:
        """Applies the changes of the knowledge base since the last call; returns how many rows were rewritten.

        All of them are, if the adapter's weights have changed.
        """
        count = len(self.knowledge_base)
        self._revision = 0  # until all is done, so that one that was interrupted counts as behind
        if not self.is_current:
            self._weights = state_of(self.adapter)
            self._rows, self._latent, self._latents, self._dense = None, None, {}, {}
        if self._rows is None or count > self._rows.capacity:
            self._lay_out(count)
        assert self._rows is not None
        with torch.autocast(self.device.type, enabled=False):
            changed = len(self._rows.sync(self.knowledge_base))
        if self._rows.buffers is not self._seen:
            self._see_layers()
            self._seen = self._rows.buffers
        self.filled[0, 1] = self._rows.count
        self.log_count.fill_(max(self._rows.count, 1)).log_()
        self._revision = self._rows.revision
        return changed

    @torch.inference_mode(False)
    @torch.no_grad()
    def twin(self) -> ResidentKnowledge:
        """This one brought up to date in other memory, so that who reads this one is left alone.

        Far cheaper than a new one: only what has changed is read from the file and projected.

        Raises:
            DeviceFullError: there is no room for it.
        """
        assert self._rows is not None
        twin = object.__new__(type(self))
        vars(twin).update(vars(self), filled=self.filled.clone(), log_count=self.log_count.clone())
        for number in (twin.filled, twin.log_count):
            stay(number)
        twin._rows = self._rows.copy()
        twin._latents, twin._dense, twin._seen = {}, {}, {}
        twin.sync()
        return twin

    def triples_at(self, places: list[int]) -> list[Triple]:
        """The triples that are the knowledge tokens at these places of [0, M)."""
        assert self._rows is not None
        return self.knowledge_base.triples_at([self._rows.ids[place] for place in places])

    def places_named(self, names: Sequence[str], *, most: int) -> list[int]:
        """The knowledge tokens of the triples of exactly these names, `most` of each at most."""
        if self._rows is None or not names:
            return []
        return self._rows.rows_of(self.knowledge_base.ids_of(names, most=most))

    def _lay_out(self, count: int) -> None:
        """Plans for `count` triples; makes new buffers when the plan holds something else than before."""
        before = None if self._rows is None else (self.plan.holds_latents, self.plan.holds_dense)
        self.plan = plan_of(self.adapter, count, self.dtype, self.device, storage=self.storage, pin=self._pin)
        if before == (self.plan.holds_latents, self.plan.holds_dense):
            return
        self._latents, self._dense, self._seen = {}, {}, {}
        self._rows = None  # frees the old buffers before there are new ones
        forms: list[RowFormat] = []
        if self.plan.holds_latents:
            self._latent = self._latent or LatentFormat(self.adapter, self.dtype, self.device, self.storage)
            forms.append(self._latent)
        if self.plan.holds_dense:
            forms.append(DenseFormat(self.adapter, self.dtype, self.device))
        self._rows = DeviceRows(self.adapter.config.embedding_dim, Joined(tuple(forms)), self.device)

    def _see_layers(self) -> None:
        """Views of the buffers as each layer reads them, made once for each allocation."""
        layers = self.adapter.config.knowledge_layers
        if self.plan.holds_latents and self._latent is not None:
            for layer in layers:
                latents = self._latent.layer(layer, self.buffers)
                for materialised in (False, True):
                    self._latents[layer, materialised] = replace(latents, materialised=materialised)
        if self.plan.holds_dense:
            dense = DenseFormat(self.adapter, self.dtype, self.device)
            self._dense = {layer: dense.layer(layer, self.buffers) for layer in layers}
        for knowledge in (*self._latents.values(), *self._dense.values()):
            stay(knowledge)
