"""Bases come, change and go while an engine runs."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError

from kblam import KnowledgeBase, Triple
from kblam.errors import EngineError
from kblam.vllm import admission, registry
from kblam.vllm.registry import Loaded
from kblam.vllm.scheduler import WithKnowledge
from tests.vllm.engine import engines
from tests.vllm.engine.engines import Reference, Request, ask, assert_alike, knowledge_of, said_by


@pytest.fixture(scope="module")
def engine(bases: dict[str, Path]) -> Any:
    return engines.start(engines.settings(bases, capacity=1200))


def rpc(engine: Any, method: str, *arguments: str) -> dict[str, Any]:
    """What the one worker says."""
    (found,) = engine.collective_rpc(method, args=arguments)
    return dict(found)


def test_a_base_that_is_loaded_while_the_engine_runs_is_answered_from_and_unloaded(
    engine: Any, bases: dict[str, Path]
) -> None:
    row = Request(engines.question_about(engines.of_base("spare")[3]), "spare")
    with pytest.raises(VLLMValidationError, match="there is no knowledge base 'spare'"):
        ask(engine, [row])
    assert set(rpc(engine, "kblam_load", "spare", str(bases["spare"]))) == {"facts", "hr", "spare"}
    (output,) = ask(engine, [row])
    assert_alike([said_by(output)], [Reference(bases).say(row)])
    rpc(engine, "kblam_unload", "spare")
    with pytest.raises(VLLMValidationError, match="there is no knowledge base 'spare'"):
        ask(engine, [row])


def test_an_update_is_seen_by_later_requests_and_not_by_those_in_progress(
    engine: Any, bases: dict[str, Path], tmp_path: Path
) -> None:
    path = Path(shutil.copy(bases["facts"], tmp_path / "live.kb"))
    told = rpc(engine, "kblam_load", "live", str(path))["live"]
    triple = engines.of_base("facts")[5]
    other = engines.of_base("facts")[6]
    row = Request(engines.question_about(triple), "live")
    before = Reference({"live": Path(shutil.copy(path, tmp_path / "before.kb"))}).say(row)

    core = engine.llm_engine
    core.add_request("1", row.prompt, row.params())
    core.step()
    core.add_request("2", row.prompt, row.params())
    with KnowledgeBase.open(path) as base:
        value = next(
            one.value for one in engines.facts() if one.property == triple.property and one.value != triple.value
        )
        base.add(Triple(triple.name, triple.property, value))
        base.remove(other.name, other.property)
    fresh = rpc(engine, "kblam_update", "live")["live"]
    assert fresh["revision"] > told["revision"]
    core.add_request("3", row.prompt, row.params())
    outputs: dict[str, Any] = {}
    while core.has_unfinished_requests():
        outputs |= {output.request_id: output for output in core.step() if output.finished}

    after = Reference({"live": path}).say(row)
    assert after.tokens != before.tokens
    assert_alike([said_by(outputs[name]) for name in "123"], [before, before, after])
    assert [knowledge_of(outputs[name])["revision"] for name in "13"] == [
        told["revision"],
        fresh["revision"],
    ]
    # What the file says now is not what the early answer was made from.
    assert knowledge_of(outputs["1"])["evidence"][0]["changed"] is True
    rpc(engine, "kblam_unload", "live")


def test_a_cached_prefix_is_of_one_version(engine: Any, bases: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(bases["facts"], tmp_path / "cached.kb"))
    rpc(engine, "kblam_load", "cached", str(path))
    triple = engines.of_base("facts")[7]
    row = Request(engines.question_about(triple), "cached", engines.LONG)
    values = [one.value for one in engines.facts() if one.property == triple.property and one.value != triple.value]
    said = []
    for value in (triple.value, values[0], triple.value):
        with KnowledgeBase.open(path) as base:
            base.add(Triple(triple.name, triple.property, value))
        rpc(engine, "kblam_update", "cached")
        expected = Reference({"cached": path}).say(row)
        outputs = [ask(engine, [row])[0] for _ in range(2)]  # the second from the cache
        assert_alike([said_by(output) for output in outputs], [expected] * 2)
        assert [output.num_cached_tokens >= 32 for output in outputs] == [False, True]
        said.append(expected)
    assert max(abs(one - other) for one, other in zip(said[0].logprobs, said[1].logprobs, strict=True)) > 0.1
    rpc(engine, "kblam_unload", "cached")


def test_versions_that_nobody_reads_give_their_room_back(engine: Any, bases: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(bases["facts"], tmp_path / "many.kb"))
    rpc(engine, "kblam_load", "many", str(path))
    for at in range(12):  # more copies than there is room for
        with KnowledgeBase.open(path) as base:
            base.add(Triple(f"Name {at}", "color", "pale green"))
        assert rpc(engine, "kblam_update", "many")["many"]["triples"] == engines.TRIPLES + at + 1
    rpc(engine, "kblam_unload", "many")


def test_a_base_larger_than_the_pool_is_refused_and_nothing_changes(
    engine: Any, bases: dict[str, Path], tmp_path: Path
) -> None:
    row = engines.requests(1)[0]
    path = tmp_path / "large.kb"
    with KnowledgeBase.create(path, KnowledgeBase.open(bases["facts"]).encoder) as base:
        base.add([Triple(f"Name {at}", "color", "pale green") for at in range(1000)])
    before = rpc(engine, "kblam_bases")
    with pytest.raises(EngineError, match="no room for 1,125 rows of knowledge"):
        engine.collective_rpc("kblam_load", args=("large", str(path)))
    with pytest.raises(EngineError, match="needs the path of its file; got 5"):
        engine.collective_rpc("kblam_load", args=("large", 5))
    with pytest.raises(EngineError, match="there is no knowledge base 'none'"):
        engine.collective_rpc("kblam_update", args=("none",))
    assert rpc(engine, "kblam_bases") == before
    assert_alike([said_by(ask(engine, [row])[0])], [Reference(bases).say(row)])


def test_a_base_that_went_after_admission_is_refused_by_the_scheduler(
    engine: Any, bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admission.FrontEnd, "admit", lambda *_: None)
    rows = [Request("What is the color of Zorblax?", "gone"), engines.requests(1)[0]]
    outputs = ask(engine, rows)
    assert outputs[0].outputs[0].finish_reason == "error"
    assert knowledge_of(outputs[0]) == {"error": "there is no knowledge base 'gone'", "of_request": True}
    assert_alike([said_by(outputs[1])], [Reference(bases).say(rows[1])])


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ({"kblam_kb": "other"}, "there is no knowledge base 'other'"),
        ({"kblam_kb": 3}, "kblam_kb must be the name of a knowledge base"),
        ({"kblam_base": "facts"}, "kblam_base is no argument"),
        ({"kblam_kb": "facts", "kblam_question": "Who?"}, "no question head"),
        (
            {"kblam_kb": "facts", "kblam_question": "\ud800"},
            "kblam_question must be a text; got '.ud800': .* half a char",
        ),
        ({"kblam_kb": "facts", "kblam_question": " "}, "kblam_question must be a text; got ' '"),
        ({"kblam_question": "Who?"}, "is for a request with a knowledge base"),
        ({"kblam_evidence": False}, "kblam_evidence is for a request with a knowledge base"),
        ({"kblam_base_prompt": [1]}, "kblam_base_prompt is for a request with a knowledge base"),
        ({"kblam_kb": "facts", "kblam_evidence": "much"}, "kblam_evidence must be true or false"),
    ],
)
def test_a_request_that_cannot_be_is_refused_in_the_front_end(engine: Any, extra: dict[str, Any], reason: str) -> None:
    row = Request("What is the color of Zorblax?", None)
    params = row.params()
    params.extra_args = extra
    with pytest.raises(VLLMValidationError, match=reason):
        engine.generate(row.prompt, params, use_tqdm=False)


def test_a_full_folder_is_no_fault_of_a_request_and_ends_no_engine(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(registry, "write_whole", full)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    loaded = [Loaded(3, generation, 9, "facts.kb", "0.1") for generation in (1, 2)]
    response = SimpleNamespace(sample=None, loaded=loaded[0])
    refused: list[Any] = []
    engine: Any = SimpleNamespace(
        requests={},
        _front=SimpleNamespace(check_encoded=lambda *_: loaded[1], rules=lambda _: None),
        _decider=None,
        _most=5,
        _past=None,
        _registry=registry.Registry(SimpleNamespace(instance_id="x")),
        _in_use=Counter({1: 1}),
        _responses={"a": response},
        _told=refused,
    )
    for method in ("_fix", "_refuse", "_forget", "_sample_of"):
        setattr(engine, method, getattr(WithKnowledge, method).__get__(engine))
    params = SimpleNamespace(extra_args={"kblam_kb": "facts"}, stop=None)
    WithKnowledge.add_request(engine, SimpleNamespace(request_id="b", sampling_params=params))
    ((_, output),) = refused
    said = output.kv_transfer_params["kblam"]
    assert said["of_request"] is False
    assert f"{tmp_path}/kblam-vllm-x (No space left on device); make room there, or set TMPDIR" in said["error"]
    assert engine._responses.keys() == {"a"}
    assert WithKnowledge._forget(engine, "a") is response
    assert not engine._in_use
    assert caplog.text.count("No space left on device") == 1
