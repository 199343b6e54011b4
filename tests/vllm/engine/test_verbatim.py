"""Answers that are decided and copied, of the small model with a pointer: as `ask` answers, and as requests ask."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from vllm.exceptions import VLLMValidationError

from experiments.vllm_equality import pointing, question_texts
from kblam import KnowledgeAdapter, KnowledgeBase, Triple
from kblam.errors import EngineRequestError
from kblam.vllm import admission, lookups
from kblam.vllm.past import Past
from kblam.vllm.registry import folder_of
from tests.vllm.engine import engines
from tests.vllm.engine.decided import ask, assert_answered, every_kind, expected
from tests.vllm.engine.engines import Reference, Request, assert_alike, knowledge_of, said_by


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pointing(engines.ADAPTER, tmp_path_factory.mktemp("pointing"))


@pytest.fixture(scope="module")
def reference(bases: dict[str, Path], adapter: Path) -> Reference:
    return Reference(bases, KnowledgeAdapter.from_pretrained(adapter))


@pytest.fixture(scope="module")
def live(bases: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that changes."""
    return Path(shutil.copy(bases["facts"], tmp_path_factory.mktemp("live") / "live.kb"))


@pytest.fixture(scope="module")
def engine(bases: dict[str, Path], adapter: Path, live: Path) -> Any:
    given = engines.settings(bases, adapter=str(adapter), capacity=2000)
    given["kblam"]["knowledge"]["live"] = str(live)
    return engines.start(given, max_model_len=256)


def one_fact(at: int = 3) -> str:
    return engines.question_about(engines.of_base("facts")[at])


@pytest.mark.parametrize("unknown", ["auto", "base", "model"])
def test_a_batch_of_every_kind_of_question_is_answered_as_ask_answers(
    engine: Any, reference: Reference, unknown: str
) -> None:
    asked = every_kind()
    outputs = ask(engine, asked, extra={"kblam_unknown": unknown})
    answers = expected(reference, asked, None if unknown == "model" else unknown)
    assert len({answer.text for answer in answers}) > len(asked) / 2
    assert any(answer.from_base for answer in answers) == (unknown == "base")
    assert_answered(outputs, answers)


def test_triples_whose_names_are_said_are_looked_at_whatever_attention_they_get(
    engine: Any, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kblam.generation.evidence.CANDIDATES", 1)
    asked = [(base, text) for base, text in every_kind() if base == "facts"]
    outputs, answers = ask(engine, asked), expected(reference, asked)
    assert_answered(outputs, answers)
    assert sum(one["field"] == "value" for one in knowledge_of(outputs[3])["copied"]) == 3  # all of an entity


def test_a_plan_goes_on_in_several_samples_and_pieces_and_up_to_a_stop_string(engine: Any) -> None:
    triple = engines.of_base("facts")[3]
    whole = f"the {triple.property} of {triple.name} is {triple.value}.".lower()
    (output,) = ask(engine, [("facts", one_fact())], temperature=0.8, n=2, seed=1)
    assert [one.text.strip() for one in output.outputs] == [whole, whole]
    (output,) = ask(engine, [("facts", one_fact())], stop=[" is "])
    assert output.outputs[0].text.strip() == whole.split(" is ")[0]
    assert knowledge_of(output)["evidence"][0]["value"] == triple.value


def test_several_answers_each_say_what_they_rest_on(engine: Any) -> None:
    """Also where the front end ends them by itself, each at another step."""
    scheduler = engine.llm_engine.engine_core.engine_core.scheduler
    asked = [("facts", one_fact()), ("hr", "What is the color of Nobody?")]

    def answered(**given: Any) -> list[Any]:
        given = {"seed": 1, "max_tokens": 12, **given}
        together = ask(engine, asked, n=3, **given)
        for output, one in zip(together, asked, strict=True):
            alone = [ask(engine, [one], **{**given, "seed": 1 + at})[0] for at in range(3)]
            engines.assert_rests_alike(output, alone)
        assert not scheduler._samples
        assert not scheduler._responses
        answers: list[Any] = together[0].outputs
        return answers

    answered(temperature=1, extra={"kblam_unknown": "base"})
    own: dict[str, Any] = {"temperature": 2, "extra": {"kblam_verbatim": False}}  # each sample its own words
    first, second, _ = (one.text.split() for one in answered(**own))
    stopped = answered(**own, stop=[next(word for word in second[:-1] if word not in first)])
    assert len({len(one.token_ids) for one in stopped}) > 1


def test_pieces_of_several_answers_say_what_each_rests_on_so_far(engine: Any) -> None:
    core, row = engine.llm_engine, Request(one_fact(), "facts")
    given: dict[str, Any] = {"min_tokens": 0, "logprobs": None, "extra": {"kblam_question": row.question}}
    core.add_request("several", row.prompt, row.params(n=2, seed=1, temperature=1, stop="###", **given))
    steps: list[list[Any]] = []
    while core.has_unfinished_requests():
        steps.append([knowledge_of(piece)["samples"] for piece in core.step()])
    said = [of_step for of_step in steps if of_step]
    assert len(said) > 3
    assert all(one == of_step[0] for of_step in said for one in of_step)  # the last to be told knows them all
    best = [sample["evidence"][0]["value"] for sample in said[-1][0]]
    assert best == [engines.of_base("facts")[3].value] * 2


def test_a_request_may_have_the_models_own_words(engine: Any, reference: Reference) -> None:
    row = Request(one_fact(), "facts")
    (output,) = ask(
        engine, [("facts", row.question)], extra={"kblam_verbatim": False}, max_tokens=10, min_tokens=10, logprobs=1
    )
    assert_alike([said_by(output)], [reference.say(row, 10)])
    assert "copied" not in knowledge_of(output)


def test_the_base_model_may_be_asked_with_a_prompt_of_the_callers(engine: Any, reference: Reference) -> None:
    other = Request("What is the color of the moon?", None)
    question = ("facts", "What is the color of Nobody?")
    (output,) = ask(engine, [question], extra={"kblam_unknown": "base", "kblam_base_prompt": other.ids}, max_tokens=10)
    assert list(output.outputs[0].token_ids)[:10] == reference.say(other, 10).tokens[: len(output.outputs[0].token_ids)]
    assert knowledge_of(output)["from_base"] is True


@pytest.mark.parametrize(
    ("options", "extra", "reason"),
    [
        ({"min_tokens": 4}, {}, "min_tokens would change words that are copied"),
        ({"bad_words": ["red"], "presence_penalty": 1.0}, {}, "bad_words, presence_penalty would change"),
        ({"thinking_token_budget": 0}, {}, "thinking_token_budget would change words"),
        ({"trace_decode_token_ids": [5]}, {}, "trace_decode_token_ids would change words"),
        ({"prompt_logprobs": 1}, {"kblam_unknown": "base"}, "the base model may read another one"),
        ({}, {"kblam_question": None}, "an answer is decided by the question's words"),
        ({}, {"kblam_unknown": "maybe"}, "kblam_unknown must be one of auto, refuse, base, model"),
        ({}, {"kblam_unknown": "base", "kblam_verbatim": False}, "kblam_unknown must be .* with kblam_verbatim=false"),
        ({}, {"kblam_base_prompt": "who?"}, "kblam_base_prompt must be a list of token ids"),
        ({}, {"kblam_base_prompt": [5, -1]}, "kblam_base_prompt has token -1, and the model's are 0 to"),
        ({}, {"kblam_base_prompt": [10**9]}, "kblam_base_prompt has token 1000000000"),
        ({}, {"kblam_base_prompt": [5] * 256}, "takes 256 tokens, and with its answer there is room for 256"),
        ({}, {"kblam_question": "who is " * 1000}, "kblam_question has 7,000 characters, more than a prompt of 256"),
        ({}, {"kblam_verbatim": "yes"}, "kblam_verbatim must be true or false"),
    ],
)
def test_what_a_decided_answer_cannot_have_is_refused_by_name(
    engine: Any, options: dict[str, Any], extra: dict[str, Any], reason: str
) -> None:
    with pytest.raises(VLLMValidationError, match=reason):
        ask(engine, [("facts", one_fact())], extra=extra, **options)


def test_a_request_that_is_aborted_while_it_is_looked_up_leaves_nothing(engine: Any) -> None:
    core = engine.llm_engine
    scheduler = core.engine_core.engine_core.scheduler
    row = Request(question_texts(engines.of_base("facts")[::20])[1], "facts")
    before = dict(scheduler.requests)
    core.add_request("gone", row.prompt, row.params(extra={"kblam_question": row.question}, min_tokens=0))
    assert len(scheduler.requests) - len(before) > 2  # the question and its parts; not the request itself
    assert scheduler._responses
    core.abort_request(["gone"])
    while core.has_unfinished_requests() or scheduler.has_requests():
        core.step()
    assert not scheduler._responses
    assert not scheduler._in_use
    assert not scheduler._lookups._by_request
    assert not scheduler._lookups._by_question
    assert scheduler.requests == before


def test_of_several_answers_one_that_is_refused_leaves_nothing(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its base may go, or the folder be full, between two of them."""
    scheduler, plain = engine.llm_engine.engine_core.engine_core.scheduler, admission.FrontEnd.check_encoded
    seen: list[Any] = []

    def second_fails(self: Any, asked: Any, params: Any) -> Any:
        seen.append(asked)
        if len(seen) == 2:
            raise EngineRequestError("there is no knowledge base 'facts'")
        return plain(self, asked, params)

    monkeypatch.setattr(admission.FrontEnd, "check_encoded", second_fails)
    (output,) = ask(engine, [("facts", one_fact())], n=2, temperature=1)
    assert [one.finish_reason for one in output.outputs] == ["stop", "error"]
    said = knowledge_of(output)["samples"]
    assert said[0]["known"] is True
    assert said[1] == {"error": "there is no knowledge base 'facts'", "of_request": True}
    assert not scheduler._samples
    assert not scheduler._responses


def test_the_same_question_is_looked_up_once_at_a_time(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[Any] = []
    plain = lookups.Lookups.begin

    def counting(self: Any, request: Any, question: Any, texts: Any) -> None:
        begun.append(texts)
        plain(self, request, question, texts)

    monkeypatch.setattr(lookups.Lookups, "begin", counting)
    outputs = ask(engine, [("facts", one_fact()), ("facts", one_fact()), ("hr", one_fact())])
    assert len(begun) == 2
    assert outputs[0].outputs[0].text == outputs[1].outputs[0].text
    assert knowledge_of(outputs[2])["refused"]


def test_words_that_have_changed_since_the_engine_was_told_are_not_said(engine: Any, live: Path) -> None:
    triple = engines.of_base("facts")[9]
    question = engines.question_about(triple)
    (output,) = ask(engine, [("live", question)])
    assert knowledge_of(output)["text"].endswith(f"{triple.value}.")
    value = next(one.value for one in engines.facts() if one.property == triple.property and one.value != triple.value)
    changed = next(
        one for one in engines.of_base("facts")[50:] if one.name != triple.name and one.property != triple.property
    )
    kept = engines.of_base("facts")[90]
    with KnowledgeBase.open(live) as base:
        Past(folder_of(engine.llm_engine.vllm_config)).keep(base, [kept.identity])
        pairs = (triple, value), (changed, "pale green"), (kept, "pale red")
        base.add([Triple(one.name, one.property, words) for one, words in pairs])
    # Words that were read before, or kept, are the version's own; of the others nobody has them any more.
    outputs = ask(engine, [("live", question), *(("live", engines.question_about(one)) for one in (changed, kept))])
    assert knowledge_of(outputs[2])["text"].endswith(f"{kept.value}.")
    assert knowledge_of(outputs[2])["evidence"][0]["changed"] is True
    assert knowledge_of(outputs[0])["text"].endswith(f"{triple.value}.")
    assert knowledge_of(outputs[0])["evidence"][0]["changed"] is True
    assert knowledge_of(outputs[1])["refused"]
    engine.collective_rpc("kblam_update", args=("live",))
    outputs = ask(engine, [("live", question), ("live", engines.question_about(changed))])
    assert [knowledge_of(output)["text"].split(" is ")[1] for output in outputs] == [f"{value}.", "pale green."]


def test_a_file_that_was_replaced_is_said_to_be_so_where_its_words_were_not_read(
    engine: Any, bases: dict[str, Path], live: Path
) -> None:
    Path(shutil.copy(bases["hr"], live.parent / "new.kb")).replace(live)
    (output,) = ask(engine, [("live", engines.question_about(engines.of_base("facts")[70]))])
    assert output.outputs[0].finish_reason == "error"
    said = knowledge_of(output)
    assert said == {"error": said["error"], "of_request": False, "replaced": True}
    assert f"{live} was removed, or replaced by another file" in said["error"]
    (output,) = ask(engine, [("facts", one_fact())])
    assert knowledge_of(output)["known"] is True


def test_of_a_file_that_was_replaced_before_its_names_were_read_the_answer_says_so(
    engine: Any, bases: dict[str, Path], tmp_path: Path
) -> None:
    """And the other requests of the call are answered."""
    unread = Path(shutil.copy(bases["facts"], tmp_path / "unread.kb"))
    engine.collective_rpc("kblam_load", args=("unread", str(unread)))
    Path(shutil.copy(bases["hr"], tmp_path / "new.kb")).replace(unread)
    failed, answered = ask(engine, [("unread", one_fact()), ("facts", one_fact())])
    assert failed.outputs[0].finish_reason == "error"
    said = knowledge_of(failed)
    assert said == {"error": said["error"], "of_request": False, "replaced": True}
    assert f"{unread} was removed, or replaced by another file" in said["error"]
    assert knowledge_of(answered)["known"] is True
    engine.collective_rpc("kblam_unload", args=("unread",))
