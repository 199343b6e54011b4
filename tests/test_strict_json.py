"""One reader for every JSON of ours: a key that stands twice is never read as its last value."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kblam import strict_json
from kblam.adapter.files import read_config
from kblam.adapter.upstream_files import json_object
from kblam.errors import AdapterFormatError, KblamError, ModelFolderError
from kblam.folder.manifest import MANIFEST, read_manifest
from kblam.shipped import SMOLLM2_ADAPTER


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": 2, "a": 1}', 'the key "a" stands twice in one object; keep one of them'),
        ('[{"a": {"b": 1, "b": 2}}]', 'the key "b" stands twice'),
        ('{"a": }', "not JSON: Expecting value at column 7"),
        ("[" * 100_000, "not JSON: nested too deeply"),
        ("[" * 201 + "]" * 201, "not JSON: nested too deeply"),
        ('{"a":' * 201 + "1" + "}" * 201, "not JSON: nested too deeply"),
        (b'{"a": "\xe9"}', "not JSON: 'utf-8' codec can't decode"),
    ],
)
def test_what_is_wrong_is_told(text: str | bytes, message: str) -> None:
    with pytest.raises((ValueError, RecursionError)) as caught:
        strict_json.loads(text)
    assert strict_json.problem(caught.value).startswith(message)


def test_what_is_right_is_read_as_python_reads_it() -> None:
    text = '{"a": [1, 2.5, true, null, "\\u00e9"], "b": {"a": {}}}'
    assert strict_json.loads(text) == strict_json.loads(text.encode()) == json.loads(text)


def test_depth_is_not_length() -> None:
    text = json.dumps([[1]] * 1000 + [{"a": "[" * 1000}])
    assert strict_json.loads(text) == json.loads(text)
    deep = "[" * strict_json.DEEPEST + "]" * strict_json.DEEPEST
    assert strict_json.loads(deep) == json.loads(deep)


def _doubled(text: str, key: str) -> str:
    return text.replace(f'"{key}"', f'"{key}": 1, "{key}"', 1)


def test_a_key_twice_in_a_config_of_an_adapter_is_refused(tmp_path: Path) -> None:
    shutil.copy(SMOLLM2_ADAPTER / "config.json", tmp_path)
    path = tmp_path / "config.json"
    read_config(tmp_path)
    path.write_text(_doubled(path.read_text(), "head_dim"))
    with pytest.raises(AdapterFormatError, match='the key "head_dim" stands twice'):
        read_config(tmp_path)
    with pytest.raises(AdapterFormatError, match='the key "head_dim" stands twice'):
        json_object(path)


def test_a_key_twice_in_a_manifest_is_refused(tmp_path: Path) -> None:
    for text, error in (('{"format_version": 1, "format_version": 2}', "stands twice"), ("[" * 100_000, "recursion")):
        (tmp_path / MANIFEST).write_text(text)
        with pytest.raises(ModelFolderError, match=error) as caught:
            read_manifest(tmp_path)
        assert isinstance(caught.value, KblamError)
