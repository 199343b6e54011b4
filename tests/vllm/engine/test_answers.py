"""One engine of the V1 runner, asked about several bases and none at once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from vllm import SamplingParams

from kblam.adapter import AdapterConfig
from kblam.vllm import admission, salts, scheduler
from kblam.vllm.registry import Loaded
from tests.vllm.engine import engines
from tests.vllm.engine.engines import Reference, Request, ask, assert_alike, knowledge_of, said_by


@pytest.fixture(scope="module")
def reference(bases: dict[str, Path]) -> Reference:
    return Reference(bases)


@pytest.fixture(scope="module")
def engine(bases: dict[str, Path]) -> Any:
    return engines.start(engines.settings(bases), enable_prefix_caching=True)


def test_a_batch_of_two_bases_and_none_says_what_attach_says(engine: Any, reference: Reference) -> None:
    rows = engines.requests()
    found = [said_by(output) for output in ask(engine, rows)]
    assert_alike(found, [reference.say(row) for row in rows])
    assert found[0].tokens != found[-2].tokens  # the same question, with a base and without


def test_more_requests_than_fit_the_batch_each_keep_their_base(engine: Any, reference: Reference) -> None:
    rows = engines.requests(9)
    assert len(rows) > 2 * 8
    assert_alike([said_by(output) for output in ask(engine, rows)], [reference.say(row) for row in rows])


def test_a_response_names_the_triples_and_how_much_of_the_attention_each_got(engine: Any, reference: Reference) -> None:
    row = Request(engines.question_about(engines.of_base("hr")[4]), "hr")
    (output,) = ask(engine, [row])
    said = knowledge_of(output)
    assert said["knowledge_base"] == "hr"
    assert said["revision"] == reference.bases["hr"].revision
    best = said["evidence"][0]
    triple = engines.of_base("hr")[4]
    assert (best["name"], best["property"], best["value"]) == (triple.name, triple.property, triple.value)
    expected = reference.say(row).best
    assert expected is not None
    assert best["mass"] == pytest.approx(expected[1], abs=1e-5)
    assert [one["mass"] for one in said["evidence"]] == sorted((one["mass"] for one in said["evidence"]), reverse=True)


def test_without_a_base_or_without_evidence_a_response_says_so_much_less(engine: Any) -> None:
    rows = engines.requests(1)
    assert knowledge_of(ask(engine, [rows[-1]])[0]) == {}
    assert "evidence" not in knowledge_of(ask(engine, [rows[0]], extra={"kblam_evidence": False})[0])


def test_a_cached_prefix_is_only_reused_by_the_same_base(engine: Any, reference: Reference) -> None:
    rows = [Request(one.question, one.base, engines.LONG) for one in engines.requests(1)]
    assert len(rows[0].ids) > 2 * 32
    expected = [reference.say(row) for row in rows]
    for _ in range(2):  # the second time from the cache
        outputs = [ask(engine, [row])[0] for row in rows]
        assert_alike([said_by(output) for output in outputs], expected)
    assert all(output.num_cached_tokens >= 32 for output in outputs)


def test_a_clients_salt_names_no_block_that_attended_to_a_base(engine: Any) -> None:
    row = Request(engines.question_about(engines.of_base("facts")[7]), "facts", engines.LONG)
    ask(engine, [row])
    assert ask(engine, [row])[0].num_cached_tokens >= 32
    loaded = engine.collective_rpc("kblam_bases")[0]["facts"]
    forged = f"kblam:facts@{loaded['revision']}.{loaded['generation']}::"
    prompt = {"prompt_token_ids": list(row.ids), "cache_salt": forged}
    found = []
    for _ in range(2):  # its own blocks it may find again
        (output,) = engine.generate(prompt, SamplingParams(max_tokens=1, temperature=0), use_tqdm=False)
        found.append(output.num_cached_tokens)
    assert found[0] == 0


def salted(how: Any, *args: Any, vector: tuple[float, ...] | None = None, client: str | None = None) -> str:
    """The salt that a request gets."""
    params = SimpleNamespace(extra_args={} if vector is None else {admission.VECTOR: vector})
    request = SimpleNamespace(
        cache_salt=client, sampling_params=params, block_hashes=[], update_block_hashes=lambda: None
    )
    how(request, *args)
    return str(request.cache_salt)


def test_blocks_are_of_one_question_where_it_is_part_of_the_queries() -> None:
    def salt(vector: tuple[float, ...] | None, client: str | None = None) -> str:
        loaded = Loaded(3, 1, 9, "facts.kb", "0.1")
        return salted(salts.salt_of_cache, "facts", loaded, vector=vector, client=client)

    assert salt((0.1, 0.2)) == salt((0.1, 0.2))
    assert len({salt(None), salt((0.1, 0.2)), salt((0.1, 0.3)), salt((0.1, 0.2), "mine")}) == 4


@pytest.mark.parametrize(("evidence_layer", "are_alike"), [(2, True), (4, False)])
def test_blocks_of_a_look_up_are_of_all_questions_where_no_knowledge_is_below(
    evidence_layer: int, are_alike: bool
) -> None:
    config = AdapterConfig(
        embedding_dim=8,
        hidden_size=8,
        num_layers=6,
        num_heads=1,
        head_dim=8,
        layers=(2, 4),
        evidence_layer=evidence_layer,
    )

    def salt(base: str, revision: int, vector: tuple[float, ...], client: str | None = None) -> str:
        loaded = Loaded(revision, revision, 9, "facts.kb", "0.1")
        return salted(salts.salt_to_evidence, base, loaded, config, vector=vector, client=client)

    one = salt("facts", 3, (0.1,))
    assert (salt("facts", 4, (0.1,)) == one) == (salt("facts", 3, (0.2,)) == one) == are_alike
    whole = salted(salts.salt_of_cache, "facts", Loaded(3, 3, 9, "facts.kb", "0.1"), vector=(0.1,))
    assert len({one, whole, salt("hr", 3, (0.1,)), salt("facts", 3, (0.1,), "mine")}) == 4


def test_without_the_salt_another_bases_prefix_would_be_reused(
    engine: Any, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scheduler, "salt_of_cache", lambda *_: None)
    before = "tell me about the treasure of the old king and the festival of the green garden . " * 4
    question = engines.question_about(engines.of_base("facts")[7])
    rows = [Request(question, "facts", before), Request(question, "hr", before)]
    found = [said_by(ask(engine, [row])[0]) for row in rows]
    expected = [reference.say(row) for row in rows]
    assert_alike(found[:1], expected[:1])
    gap = torch.tensor(found[1].logprobs) - torch.tensor(expected[1].logprobs)
    assert found[1].tokens != expected[1].tokens or gap.abs().max() > 1000 * engines.TOLERANCE


def test_several_samples_of_one_request_each_have_its_base(engine: Any) -> None:
    row = engines.requests(1)[1]
    together = engine.generate(
        row.prompt,
        SamplingParams(n=3, temperature=1.0, seed=5, max_tokens=8, extra_args={"kblam_kb": row.base}),
        use_tqdm=False,
    )[0]
    alone = [
        engine.generate(
            row.prompt,
            SamplingParams(temperature=1.0, seed=5 + at, max_tokens=8, extra_args={"kblam_kb": row.base}),
            use_tqdm=False,
        )[0]
        for at in range(3)
    ]
    assert [one.token_ids for one in together.outputs] == [one.outputs[0].token_ids for one in alone]
    engines.assert_rests_alike(together, alone)


def test_a_stop_string_ends_an_answer_with_its_evidence(engine: Any, reference: Reference) -> None:
    row = engines.requests(1)[0]
    whole = engines.tokenizer().decode(reference.say(row).tokens).split()
    (output,) = ask(engine, [row], stop=[whole[3]], min_tokens=0)
    assert output.outputs[0].finish_reason == "stop"
    assert whole[3] not in output.outputs[0].text
    assert knowledge_of(output)["evidence"]


def test_the_last_piece_of_a_stream_has_the_evidence(engine: Any, reference: Reference) -> None:
    row = engines.requests(1)[0]
    core = engine.llm_engine
    core.add_request("streamed", row.prompt, row.params())
    pieces = []
    while core.has_unfinished_requests():
        pieces += core.step()
    assert len(pieces) > 3
    assert all(not knowledge_of(piece) for piece in pieces[:-1])
    assert knowledge_of(pieces[-1])["evidence"]
    assert list(pieces[-1].outputs[0].token_ids) == reference.say(row).tokens


def test_prompts_of_one_sampling_params_object_do_not_share_their_stamp(engine: Any, reference: Reference) -> None:
    rows = [row for row in engines.requests(2) if row.base == "facts"]
    shared = rows[0].params()
    outputs = engine.generate([row.prompt for row in rows], shared, use_tqdm=False)
    assert_alike([said_by(output) for output in outputs], [reference.say(row) for row in rows])
    assert [knowledge_of(output)["evidence"][0]["name"] for output in outputs] == [
        triple.name for triple in engines.of_base("facts")[:2]
    ]
    assert shared.extra_args == {"kblam_kb": "facts"}
