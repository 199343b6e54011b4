"""What each project calls the same tensors: microsoft/KBLaM (4db377f) and HKUST-KnowComp/AtlasKV (f624e51).

Encoder and query heads are looked up apart: AtlasKV's own runs of plain KBLaM (without `--use_kg`) write its names in
encoder.pt and KBLaM's in the model folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from kblam.errors import AdapterFormatError


@dataclass(frozen=True)
class Names:
    """One project's names: both projectors in encoder.pt, the knowledge query head in `model.layers.{i}.self_attn`."""

    project: str
    key_projector: str
    value_projector: str
    query_head: str

    def has_projectors(self, name: str) -> bool:
        return name.startswith((f"{self.key_projector}.", f"{self.value_projector}."))

    def has_query_head(self, name: str) -> bool:
        return f".self_attn.{self.query_head}." in name

    @property
    def query_head_pattern(self) -> str:
        return f"model.layers.{{}}.self_attn.{self.query_head}"


PROJECTS = (
    Names("microsoft/KBLaM", "projector_k", "projector_v", "q_proj_new"),
    Names("AtlasKV", "key_projector", "value_projector", "q_proj_kg"),
)
# What they add to the base model's state dict; `score_shift` is read by nobody.
_EXTRA = re.compile(rf"\.self_attn\.(({'|'.join(n.query_head for n in PROJECTS)})\.(weight|bias)|score_shift)$")


def is_extra(name: str) -> bool:
    """Whether a tensor of a model folder is no weight of the base model."""
    return _EXTRA.search(name) is not None


def projector_names(path: Path, tensors: Iterable[str]) -> Names | None:
    """Whose projectors an encoder file holds; None if there are none.

    Raises:
        AdapterFormatError: it holds projectors of two projects.
    """
    tensors = list(tensors)
    return _only(path, "projectors", [n for n in PROJECTS if any(map(n.has_projectors, tensors))])


def query_head_names(folder: Path, tensors: Iterable[str]) -> Names | None:
    """Whose query heads a model folder holds; None if there are none.

    Raises:
        AdapterFormatError: it holds query heads of two projects.
    """
    tensors = list(tensors)
    return _only(folder, "query heads", [n for n in PROJECTS if any(map(n.has_query_head, tensors))])


def _only(path: Path, what: str, found: list[Names]) -> Names | None:
    if len(found) > 1:
        raise AdapterFormatError(
            f"{path} holds {what} of {' and of '.join(n.project for n in found)}, and nothing says which were trained; "
            "save it again with one of them"
        )
    return found[0] if found else None
