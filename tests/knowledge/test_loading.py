from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kblam.errors import EncoderError, EncoderUnavailableError
from kblam.knowledge.encoders import (
    OpenAIEncoder,
    SentenceTransformerEncoder,
    load_encoder,
    load_recorded_encoder,
)


@pytest.mark.parametrize(
    ("spec", "model"),
    [
        ("minilm", "sentence-transformers/all-MiniLM-L6-v2"),
        ("all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"),
        ("sentence-transformers/all-mpnet-base-v2", "sentence-transformers/all-mpnet-base-v2"),
        ("BAAI/bge-m3", "BAAI/bge-m3"),
    ],
)
def test_models_on_this_machine(spec: str, model: str) -> None:
    encoder = load_encoder(spec, device="cpu", batch_size=7)
    assert isinstance(encoder, SentenceTransformerEncoder)
    assert (encoder.model, encoder.device, encoder.batch_size) == (model, "cpu", 7)


def test_a_folder_is_recorded_by_its_full_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_encoder("models").spec == str(tmp_path / "models")


def test_openai() -> None:
    encoder = load_encoder("openai:text-embedding-3-large#256@http://127.0.0.1:1/v1/", batch_size=3, api_key_env="K")
    assert isinstance(encoder, OpenAIEncoder)
    assert (encoder.base_url, encoder.dimension) == ("http://127.0.0.1:1/v1", 256)
    assert (encoder.batch_size, encoder.api_key_env) == (3, "K")


@pytest.mark.parametrize(
    "spec", ["", "mini", "/no/such/folder", "./none", "openai:", "openai:m#x", "openai:m@host", "a b/c"]
)
def test_unknown_encoders_list_what_is_possible(spec: str) -> None:
    with pytest.raises(EncoderUnavailableError) as caught:
        load_encoder(spec)
    assert repr(spec) in str(caught.value)
    assert '"minilm"' in str(caught.value)
    assert '"openai:MODEL' in str(caught.value)


def test_a_file_alone_cannot_name_the_server_that_gets_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    spec = "openai:m#8@https://example.invalid/v1"
    with pytest.raises(EncoderUnavailableError, match=r"built through the server https://example.invalid/v1"):
        load_recorded_encoder(spec)
    assert load_recorded_encoder("openai:m#8").spec == "openai:m#8"
    monkeypatch.setenv("OPENAI_BASE_URL", "https://example.invalid/v1/")
    assert load_recorded_encoder(spec).spec == spec


@pytest.mark.parametrize("spec", ["minilm", "org/model"])
def test_a_recorded_encoder_computes_on_the_device_that_is_asked_for(
    spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KBLAM_ENCODER", "org/model")
    for device in (None, "cuda:1"):
        encoder = load_recorded_encoder(spec, device)
        assert isinstance(encoder, SentenceTransformerEncoder)
        assert encoder.device == device


@pytest.mark.parametrize("spec", ["org/model", "/some/folder", "sentence-transformers/all-mpnet-base-v2"])
def test_a_file_alone_cannot_choose_what_is_loaded(spec: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KBLAM_ENCODER", raising=False)
    spec = str(tmp_path) if spec.startswith("/") else spec
    with pytest.raises(EncoderUnavailableError, match=r"a file cannot choose what is loaded; .*KBLAM_ENCODER="):
        load_recorded_encoder(spec)
    monkeypatch.setenv("KBLAM_ENCODER", spec)
    assert load_recorded_encoder(spec).spec == spec
    with pytest.raises(EncoderUnavailableError, match="cannot choose"):
        load_recorded_encoder("another/model")
    for default in ("minilm", "sentence-transformers/all-MiniLM-L6-v2"):
        assert load_recorded_encoder(default).spec == "sentence-transformers/all-MiniLM-L6-v2"


def test_a_recorded_address_with_a_password_is_refused() -> None:
    with pytest.raises(EncoderError, match="a key goes in the environment"):
        load_recorded_encoder("openai:m@https://u:p@host/v1")


def test_naming_an_encoder_loads_nothing_heavy() -> None:
    code = (
        "import sys; from kblam.knowledge.encoders import load_encoder; load_encoder('minilm'); "
        "load_encoder('openai:m'); heavy = {'torch', 'transformers', 'sentence_transformers', 'httpx'};"
        "sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
