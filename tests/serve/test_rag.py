"""`kblam serve --rag`: the same base asked by RAG, under a name of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import openai
import pytest

from kblam.evaluation.baselines import Reader
from kblam.generation.rag import Retriever
from kblam.serve.bases import Bases
from kblam.serve.keys import Keys
from tests.cli.conftest import kblam
from tests.generation.asking import FACTS, attached, byte_bpe
from tests.serve.contract.common import ACME, GLOBEX, TRIPLES, bearer, chunks, said_in, values
from tests.serve.served import MODEL, QUESTION, Served, base_of, serving

LENGTH = 12


@pytest.fixture
def both() -> Iterator[Served]:
    """The tiny model, asked either way."""
    with serving(Bases([base_of()]), with_rag=True) as served:
        yield served


def by_rag(served: Served, **more: object) -> dict[str, object]:
    return {
        "model": f"{MODEL}+rag@facts",
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": LENGTH,
        **more,
    }


def test_an_answer_is_the_evaluation_s_and_tells_what_stood_in_the_prompt(both: Served) -> None:
    body = both.send(by_rag(both)).json()
    tokenizer = byte_bpe()
    model, attachment = attached(tokenizer)
    (base,) = both.service.bases
    found, _ = Retriever(base.knowledge_base)(QUESTION)
    reader = Reader(SimpleNamespace(model=model, tokenizer=tokenizer))
    prompt = reader.encode(QUESTION, [one.fact for one in found], attachment.config.refusal)
    assert body["choices"][0]["message"]["content"] == reader.answer([prompt], LENGTH)[0]
    assert body["usage"]["prompt_tokens"] == len(prompt)
    said = body["kblam"]
    assert said["retrieved"] == [one.to_dict() for one in found]
    assert said["retrieved"][0]["value"] == "Euro"
    assert (said["knowledge_base"], said["revision"], said["evidence"], said["copied"]) == ("facts", 1, [], [])
    assert (said["known"], said["confidence"]) == (None, None)
    parts = chunks(both.send(by_rag(both, stream=True)).text)
    assert said_in(parts) == body["choices"][0]["message"]["content"]
    assert parts[-1]["kblam"] == said


def test_the_other_answer_is_as_without_it(both: Served, server: Served) -> None:
    told, alone = both.ask().json(), server.ask().json()
    assert told["kblam"] == alone["kblam"]
    assert told["choices"] == alone["choices"]


def test_a_change_is_in_the_next_prompt(both: Served) -> None:
    both.send(by_rag(both))
    sent = both.client.put(TRIPLES, json=FACTS[0].to_record() | {"value": "Franc"}).json()
    said = both.send(by_rag(both)).json()["kblam"]
    assert (said["retrieved"][0]["value"], said["revision"]) == ("Franc", sent["revision"])


def test_it_is_a_model_to_any_client_and_counted_apart(both: Served) -> None:
    client = openai.OpenAI(base_url=f"{both.url}/v1", api_key="none", max_retries=0)
    assert [one.id for one in client.models.list()] == [MODEL, f"{MODEL}@facts", f"{MODEL}+rag@facts"]
    assert both.client.get(f"/v1/models/{MODEL}+rag@facts").json()["kblam"] == {"knowledge_base": "facts", "rag": True}
    answer = client.chat.completions.create(**by_rag(both))
    assert answer.model_extra is not None
    assert len(answer.model_extra["kblam"]["retrieved"]) == 5
    counted = values(both)
    assert counted[("kblam_requests_total", "/v1/chat/completions", "facts+rag", "200")] == 1
    assert ("kblam_requests_total", "/v1/chat/completions", "facts", "200") not in counted
    assert counted[("kblam_tokens_total", "answer", "facts+rag")] == answer.usage.completion_tokens


def test_what_cannot_be_asked_is_refused(both: Served, server: Served) -> None:
    alone = both.send(by_rag(both, model=f"{MODEL}+rag"))
    assert (alone.status_code, alone.json()["error"]["message"]) == (
        400,
        f"RAG needs a base; the model's name is {MODEL}+rag@BASE",
    )
    assert both.send(by_rag(both, model=f"{MODEL}+rag@none")).status_code == 404
    assert both.send(by_rag(both, model=f"{MODEL}+rag", vllm_xargs={"kblam_kb": "facts"})).status_code == 200
    empty = both.send(by_rag(both, messages=[{"role": "user", "content": " "}]))
    assert (empty.status_code, "empty" in empty.json()["error"]["message"]) == (400, True)
    several = both.send(by_rag(both, messages=[{"role": "user", "content": "x"}] * 2))
    assert several.status_code == 400
    long = both.send(by_rag(both, max_tokens=500))
    assert (long.status_code, "has room for 512" in long.json()["error"]["message"]) == (400, True)
    assert server.send(by_rag(server)).json()["error"]["code"] == "model_not_found", "it is off unless asked for"


def test_a_tenant_asks_its_own_base_alone() -> None:
    bases = Bases([base_of("facts", "acme"), base_of("facts", "globex", [])])
    with serving(bases, keys=Keys([("acme", ACME), ("globex", GLOBEX)]), with_rag=True) as served:
        for key, count in ((ACME, 5), (GLOBEX, 0)):
            said = served.client.post("/v1/chat/completions", json=by_rag(served), headers=bearer(key)).json()
            assert len(said["kblam"]["retrieved"]) == count


def test_the_command_refuses_it_with_vllm(base: Path, adapter: Path, kb: Path) -> None:
    words = ("serve", base, "--adapter", adapter, "--kb", kb, "--rag", "--engine", "vllm")
    kblam(*words).failed(2, "--rag is not for vLLM; leave it out, or pass --engine embedded")
