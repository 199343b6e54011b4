"""Keys and tenants as they are read; what they see of a server is in `contract`."""

from __future__ import annotations

import re

import pytest

from kblam.errors import ServingError
from kblam.serve.bases import Bases, Place
from kblam.serve.failures import ApiError
from kblam.serve.keys import Keys, check_places
from tests.serve.contract import ACME, GLOBEX
from tests.serve.served import base_of


@pytest.mark.parametrize(
    ("value", "word"),
    [
        ("acme", "entry 1"),
        (f"acme:{ACME},{GLOBEX}", "entry 2"),
        ("acme:short", "shorter than 16"),
        ("acme:" + "ü" * 20, "ASCII"),
        (f"acme:{ACME},globex:{ACME}", "two tenants"),
        (f"a/b:{ACME}", "entry 1"),
    ],
)
def test_keys_that_cannot_be_are_refused_and_not_shown(value: str, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBLAM_API_KEYS", value)
    with pytest.raises(ServingError, match=word) as error:
        Keys.from_environment()
    for key in (ACME, GLOBEX, "short", "ü"):
        assert not re.search(rf"(?<!\w){key}(?!\w)", str(error.value).replace("shorter", ""))


def test_keys_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBLAM_API_KEYS", f" acme:{ACME}, globex:{GLOBEX}:with=signs ,")
    keys = Keys.from_environment()
    assert keys.tenants == ["acme", "globex"]
    assert keys.tenant_of(f"bearer {GLOBEX}:with=signs") == "globex"
    with pytest.raises(ApiError):
        keys.tenant_of(f"Bearer {GLOBEX}")
    assert ACME not in repr(vars(keys))
    monkeypatch.delenv("KBLAM_API_KEYS")
    assert not Keys.from_environment()
    assert Keys.from_environment().tenant_of(None) is None


@pytest.mark.parametrize(
    ("keys", "text", "word"),
    [
        (Keys([("acme", ACME)]), "facts=facts.kb", "belongs to nobody"),
        (Keys([("acme", ACME)]), "globex/facts=facts.kb", "has no key"),
        (Keys(), "acme/facts=facts.kb", "has no key"),
    ],
)
def test_a_base_that_nobody_could_ask_is_refused(keys: Keys, text: str, word: str) -> None:
    with pytest.raises(ServingError, match=word):
        check_places(keys, [Place.parse(text)])


@pytest.mark.parametrize("text", ["=x.kb", "a b=x.kb", "a/b/c=x.kb", "/a=x.kb", "a=", "a@b=x.kb", "-a=x.kb", ".=x.kb"])
def test_names_that_cannot_be_are_refused(text: str) -> None:
    with pytest.raises(ServingError):
        Place.parse(text)


def test_a_file_alone_is_called_as_it_is() -> None:
    place = Place.parse("some/where/facts.kb")
    assert (place.tenant, place.name, str(place.file)) == (None, "facts", "some/where/facts.kb")
    with pytest.raises(ServingError, match="two knowledge bases"):
        Bases([base_of(), base_of()])
