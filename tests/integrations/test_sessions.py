"""Sessions from files, and what is said where a framework is not installed."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from kblam import extras
from kblam.errors import GenerationError, MissingPackageError
from kblam.extras import Requirement
from kblam.integrations.asking import open_session


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [("langchain", "langchain-core", "langchain"), ("llama_index", "llama-index-core", "llama-index")],
)
def test_a_framework_that_is_missing_is_named_with_its_extra(
    module: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extras, "requirements", lambda: [Requirement(package, "", extra)])
    for imported in ("langchain_core.callbacks", "llama_index.core.base.llms.generic_utils"):
        monkeypatch.setitem(sys.modules, imported, None)  # as if it were not there
    monkeypatch.delitem(sys.modules, f"kblam.integrations.{module}", raising=False)
    with pytest.raises(MissingPackageError, match=rf"{package} is not installed; pip install '.*\[{extra}\]'"):
        importlib.import_module(f"kblam.integrations.{module}")


def test_a_knowledge_base_is_needed(tmp_path: Path) -> None:
    with pytest.raises(GenerationError, match="knowledge_base is missing: smollm2 is no model folder"):
        open_session()
    with pytest.raises(GenerationError, match="knowledge_base is missing: base is no model folder"):
        open_session(model="base", adapter=tmp_path)
