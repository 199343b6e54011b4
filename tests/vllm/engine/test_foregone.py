"""Answers that are foregone attend no further than their evidence needs, and are the same as if they did."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from kblam import KnowledgeAdapter
from kblam.adapter import AdapterConfig
from kblam.adapter.files import read_config
from kblam.generation import evidence as masses
from kblam.knowledge import load_encoder
from kblam.models import lse
from kblam.models.loading import load_config
from kblam.shipped import SMOLLM2_ADAPTER
from kblam.vllm import attention
from kblam.vllm import evidence as evidence_of_vllm
from kblam.vllm.pool import serving_pool
from tests.vllm.engine import engines
from tests.vllm.engine.decided import ask, assert_answered, every_kind, expected
from tests.vllm.engine.engines import Reference, Request, assert_alike, knowledge_of, said_by

BELOW, EVIDENCE, ABOVE = 0, 1, 3
PREFIX = 32  # tokens of a block


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With knowledge layers on both sides of the evidence layer, random weights, and the confidence of SmolLM2's."""
    torch.manual_seed(3)
    config = AdapterConfig.for_model(
        load_config(engines.MODEL),
        384,
        encoder=load_encoder("minilm").fingerprint,
        layers=(BELOW, EVIDENCE, ABOVE),
        evidence_layer=EVIDENCE,
        question_head="linear",
        knowledge_scale=100.0,
        pointer=True,
        known_above=0.4,
        confidence=read_config(SMOLLM2_ADAPTER).confidence,
    )
    folder = tmp_path_factory.mktemp("adapter")
    KnowledgeAdapter(config).eval().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def reference(bases: dict[str, Path], adapter: Path) -> Reference:
    return Reference(bases, KnowledgeAdapter.from_pretrained(adapter), plan="latent")


@pytest.fixture(scope="module")
def engine(bases: dict[str, Path], adapter: Path) -> Any:
    given = engines.settings(bases, adapter=str(adapter))
    return engines.start(given, max_model_len=256, enable_prefix_caching=True)


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of how many tokens evidence was looked for without attention, by step."""
    found, plain = list[int](), attention.look
    monkeypatch.setattr(attention, "look", lambda *given: (found.append(len(given[2])), plain(*given))[1])
    return found


@pytest.fixture
def attended(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How many tokens have attended to knowledge, by layer."""
    pool, found = serving_pool(engine.llm_engine.vllm_config), Counter[int]()
    plain = attention.partial_knowledge_attention

    def counting(rows: Any, knowledge: Any, *args: Any, **options: Any) -> Any:
        (layer,) = (one for one in (BELOW, EVIDENCE, ABOVE) if pool.layer(one) is knowledge)
        found[layer] += len(rows)
        return plain(rows, knowledge, *args, **options)

    monkeypatch.setattr(attention, "partial_knowledge_attention", counting)
    return found


def question(at: int) -> tuple[str, str]:
    return "facts", engines.question_about(engines.of_base("facts")[at])


def test_a_foregone_answer_attends_below_the_evidence_layer_alone(
    engine: Any, reference: Reference, attended: Counter[int]
) -> None:
    asked = [question(3), question(4), ("hr", "What is the color of Nobody?")]
    outputs = ask(engine, asked)
    assert_answered(outputs, expected(reference, asked))
    assert attended[BELOW] > 3 * 8
    assert not attended[EVIDENCE]
    assert not attended[ABOVE]


# What shows a model's own choice, or leaves one to it.
@pytest.mark.parametrize(
    "options",
    [
        {"logprobs": 2},
        {"prompt_logprobs": 1},
        {"temperature": 0.7, "seed": 1},
        {"ignore_eos": True, "max_tokens": 40},
        {"repetition_penalty": 1.1},
        {"stop": ["nowhere"]},
        {"extra": {"kblam_unknown": "model"}},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_answer_that_the_model_has_a_part_in_attends_in_all_layers(
    engine: Any, attended: Counter[int], options: dict[str, Any]
) -> None:
    (output,) = ask(engine, [question(5)], **options)
    made = len(output.prompt_token_ids) + len(output.outputs[0].token_ids) - 1
    assert attended[ABOVE] == attended[EVIDENCE] == made
    assert attended[BELOW] > attended[ABOVE]  # the look-up's are among them


def test_evidence_is_that_of_an_answer_that_attends_in_all_layers(engine: Any) -> None:
    asked = [question(6), question(7)]
    alone, whole = ask(engine, asked), ask(engine, asked, repetition_penalty=1.1)
    for one, other in zip(alone, whole, strict=True):
        assert one.outputs[0].token_ids == other.outputs[0].token_ids
        found, wanted = ({each["value"]: each["mass"] for each in knowledge_of(of)["evidence"]} for of in (one, other))
        assert found
        assert found == pytest.approx(wanted, abs=1e-5)


def test_without_evidence_nothing_is_looked_at_for_the_answer(engine: Any, looked: list[int]) -> None:
    (output,) = ask(engine, [question(8)])
    # The look-up, and the answer's tokens but the last, together.
    assert looked == [1, len(output.outputs[0].token_ids) - 1]
    looked.clear()
    (output,) = ask(engine, [question(9)], extra={"kblam_evidence": False})
    assert looked == [1]  # the look-up itself
    assert "evidence" not in knowledge_of(output)


def test_over_a_long_list_the_best_are_found_in_few_blocks(
    engine: Any, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = every_kind()
    answers = expected(reference, asked)
    monkeypatch.setattr(lse, "IN_BLOCKS_FROM", 1)
    in_blocks: list[bool] = []
    plain = masses.strongest_of

    def noting(*given: Any, **options: Any) -> Any:
        in_blocks.append(given[4] is not None)
        return plain(*given, **options)

    monkeypatch.setattr(evidence_of_vllm, "strongest_of", noting)
    assert_answered(ask(engine, asked), answers)
    assert in_blocks
    assert all(in_blocks)


def test_where_no_kernel_has_the_lse_alone_the_answers_are_the_same(
    engine: Any, reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU."""
    monkeypatch.setattr(evidence_of_vllm, "_has_lse_alone", lambda _: False)
    asked = every_kind()
    assert_answered(ask(engine, asked), expected(reference, asked))


def test_what_a_foregone_answer_leaves_in_the_cache_is_for_its_like_alone(
    engine: Any, reference: Reference, looked: list[int]
) -> None:
    _, text = question(10)
    before = engines.LONG
    while len(Request(text, "facts", before).ids) % PREFIX != PREFIX - 4:
        before += "the "  # so that the answer fills a block
    row = Request(text, "facts", before)
    prompts = [row.prompt]
    extra = {"kblam_question": text}

    def asked(**options: Any) -> Any:
        more = options.pop("extra", {})
        params = row.params(extra=extra | more, **{"min_tokens": 0, "logprobs": None, **options})
        return engine.generate(prompts, [params], use_tqdm=False)[0]

    first, second = asked(), asked()
    assert (first.num_cached_tokens, second.num_cached_tokens) == (0, PREFIX * (len(row.ids) // PREFIX))
    # What the cache has of a first answer is read again, or its evidence would be missing.
    assert looked == [1, len(first.outputs[0].token_ids) - 1] * 2
    assert knowledge_of(second) == knowledge_of(first)
    own = asked(extra={"kblam_verbatim": False}, min_tokens=10, max_tokens=10, logprobs=1)
    assert own.num_cached_tokens == 0
    assert_alike([said_by(own)], [reference.say(row, 10)])


def test_a_foregone_answer_ends_where_its_request_says(engine: Any) -> None:
    (whole,) = ask(engine, [question(11)])
    tokens = list(whole.outputs[0].token_ids)
    assert whole.outputs[0].finish_reason == "stop"
    (cut,) = ask(engine, [question(11)], max_tokens=4)
    assert (list(cut.outputs[0].token_ids), cut.outputs[0].finish_reason) == (tokens[:4], "length")
    assert knowledge_of(cut)["evidence"]
    (one,) = ask(engine, [question(11)], max_tokens=1)
    assert (list(one.outputs[0].token_ids), one.outputs[0].finish_reason) == (tokens[:1], "length")
    (stopped,) = ask(engine, [question(11)], stop_token_ids=[tokens[3]])
    until = tokens[: tokens.index(tokens[3]) + 1]
    assert (list(stopped.outputs[0].token_ids), stopped.outputs[0].stop_reason) == (until, tokens[3])


def test_a_request_that_is_aborted_while_its_answer_is_read_leaves_nothing(engine: Any) -> None:
    core, row = engine.llm_engine, Request(question(12)[1], "facts")
    scheduler = core.engine_core.engine_core.scheduler
    core.add_request(
        "read", row.prompt, row.params(extra={"kblam_question": row.question}, min_tokens=0, logprobs=None)
    )
    while not any(name.endswith("?answer") for name in scheduler.requests):
        assert core.step() == []
    core.abort_request(["read"])
    while core.has_unfinished_requests() or scheduler.has_requests():
        core.step()
    assert not scheduler.requests
    assert not scheduler._responses
    assert not scheduler._in_use
    assert not scheduler._lookups._by_request


def test_statistics_count_a_foregone_answer_as_any_other(bases: dict[str, Path], adapter: Path) -> None:
    engine = engines.start(engines.settings(bases, adapter=str(adapter)), max_model_len=256, disable_log_stats=False)
    (output,) = ask(engine, [question(13)])
    found = {one.name: one for one in engine.get_metrics()}
    assert found["vllm:prompt_tokens"].value == len(output.prompt_token_ids)
    assert found["vllm:generation_tokens"].value == len(output.outputs[0].token_ids)
    for time in ("e2e_request_latency_seconds", "request_queue_time_seconds", "request_prefill_time_seconds"):
        assert found[f"vllm:{time}"].count == 1
        assert 0 <= found[f"vllm:{time}"].sum < 100
