"""What is changed while vLLM answers: when it is served, and what there is room for."""

from __future__ import annotations

import asyncio
from unittest import mock

import httpx
import pytest

from kblam import Triple
from kblam.errors import StoreError
from kblam.knowledge.rows import room_for
from kblam.serve.failures import BehindError, NoRoomError
from kblam.serve.vllm import engine as engine_module
from kblam.vllm.past import Past
from tests.generation.asking import FACTS
from tests.serve.contract import TRIPLES
from tests.serve.vllm.standing_in import Served


def test_words_are_kept_before_they_are_changed() -> None:
    served = Served()
    base = next(iter(served.bases)).knowledge_base
    fact = FACTS[0]
    path = {"name": fact.name, "property": fact.property}
    assert served.send(TRIPLES, {**path, "value": "Franc"}, "PUT").status_code == 200
    assert served.send(TRIPLES, [{**path, "value": "Mark"}]).status_code == 200
    query = str(httpx.QueryParams(path))
    assert served.send(f"{TRIPLES}?{query}", None, "DELETE").status_code == 200
    past = Past(served.folder)
    assert [past.words(base, [1], at)[1].value for at in (1, 2, 3)] == [fact.value, "Franc", "Mark"]


def test_a_change_is_served_when_it_is_answered() -> None:
    served = Served()
    done = served.send(TRIPLES, {"name": "France", "property": "currency", "value": "Franc"}, "PUT").json()
    assert served.workers.served["facts"]["revision"] == done["revision"] == 2
    assert served.workers.served["hr"]["revision"] == 1


def test_room_that_answers_in_progress_keep_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_PAUSE", 0.01)
    served = Served()
    served.workers.trouble = 3
    assert served.send(TRIPLES, {"name": "a", "property": "b", "value": "c"}, "PUT").status_code == 200
    assert served.workers.served["facts"]["revision"] == 2


def test_a_change_that_cannot_be_served_says_so_and_the_next_request_tries_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(engine_module, "_PATIENCE", 0.0)
    monkeypatch.setattr(engine_module, "_AGAIN", 0.0)
    served = Served()
    served.workers.trouble = 2
    response = served.send(TRIPLES, {"name": "a", "property": "b", "value": "c"}, "PUT")
    error = response.json()["error"]
    assert (response.status_code, error["code"], response.headers["Retry-After"]) == (503, "not_served_yet", "1")
    assert "as revision 2" in error["message"]
    assert "answers come from revision 1, since no room for 64 rows" in error["message"]
    assert served.ask().status_code == 200  # from what is served
    assert served.workers.served["facts"]["revision"] == 1
    assert served.ask().status_code == 200
    assert served.workers.served["facts"]["revision"] == 2


def test_a_failure_is_told_to_all_who_waited_for_it_and_the_next_request_tries_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_module, "_AGAIN", 0.0)
    served = Served()
    next(iter(served.bases)).knowledge_base.add(Triple("a", "b", "c"))
    served.workers.trouble, served.workers.seconds = 2, 1.0
    asked = served.workers.calls.copy()
    assert [one.status_code for one in served.ask_together(*["facts"] * 6)] == [200] * 6
    assert served.workers.calls == [*asked, "kblam_update"]
    told = [record.getMessage() for record in caplog.records if "not served yet" in record.getMessage()]
    assert len(told) == 6
    assert all("revision 2" in line and "no room for 64 rows" in line for line in told)
    served.ask("facts")
    served.ask("facts")
    assert served.workers.calls == [*asked, *["kblam_update"] * 3]
    assert served.workers.served["facts"]["revision"] == 2


def test_a_change_after_one_that_failed_is_tried_by_whoever_made_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may be what makes room."""
    monkeypatch.setattr(engine_module, "_PATIENCE", 0.0)
    served = Served()
    base = next(iter(served.bases))
    base.knowledge_base.add(Triple("a", "b", "c"))
    served.workers.trouble, served.workers.seconds = 1, 0.5

    async def both() -> None:
        first = asyncio.ensure_future(served.engine.follow(base))
        while not served.engine._locks["facts"].locked():
            await asyncio.sleep(0.01)
        base.knowledge_base.remove("a")
        await served.engine.follow(base)
        with pytest.raises(BehindError, match="revision 2"):
            await first

    served._loop.run_until_complete(both())
    assert served.workers.served["facts"]["revision"] == 3


def test_a_client_is_not_told_the_servers_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "_PATIENCE", 0.0)
    served = Served()
    served.workers.trouble, served.workers.reason = 1, "/srv/secret/facts.kb: disk I/O error; the disk failed"
    error = served.send(TRIPLES, {"name": "a", "property": "b", "value": "c"}, "PUT").json()["error"]
    assert "since the engine could not read it; its log says why" in error["message"]
    assert "secret" not in error["message"]
    served.workers.trouble = 1
    served.workers.reason = "Worker failed with error 'no room for 64 rows of knowledge', please check the stack trace"
    error = served.send(TRIPLES, {"name": "a", "property": "b", "value": "d"}, "PUT").json()["error"]
    assert "since no room for 64 rows of knowledge. The next question" in error["message"]


def test_a_file_that_was_replaced_leaves_the_answers_of_before() -> None:
    served = Served()
    base = next(iter(served.bases))
    gone = StoreError("/srv/facts.kb was removed, or replaced by another file, after it was opened; open it again")
    with mock.patch.object(type(base.knowledge_base), "revision", mock.PropertyMock(side_effect=gone)):
        assert served.ask().status_code == 200


def test_what_another_program_has_changed_is_seen_by_the_next_request() -> None:
    served = Served()
    base = next(iter(served.bases)).knowledge_base
    base.add(Triple("a", "b", "c"))
    served.ask("hr")
    assert served.workers.served["facts"]["revision"] == 1
    served.ask("facts")
    assert served.workers.served["facts"]["revision"] == 2


def test_a_base_larger_than_the_pool_is_refused_before_anything_is_written() -> None:
    served = Served()
    many = [{"name": f"n{number}", "property": "p", "value": "v"} for number in range(1000)]
    response = served.send(TRIPLES, many)
    assert (response.status_code, response.json()["error"]["code"]) == (507, "no_room")
    assert "--capacity" in response.json()["error"]["message"]
    assert served.workers.served["facts"]["triples"] == len(next(iter(served.bases)).knowledge_base) == 5
    again = [{"name": fact.name, "property": fact.property, "value": "v"} for fact in FACTS] * 1
    assert served.send(TRIPLES, again).status_code == 200


def test_a_removal_that_could_not_be_served_is_refused_before_anything_is_written() -> None:
    served = Served()
    served.engine._capacity = 2 * room_for(5)  # no copy of either fits
    gone = FACTS[0]
    response = served.send(f"{TRIPLES}?name={gone.name}&property={gone.property}", None, "DELETE")
    assert (response.status_code, response.json()["error"]["code"]) == (507, "no_room")
    assert len(next(iter(served.bases)).knowledge_base) == 5


def test_room_is_counted_with_the_copy_that_a_change_makes() -> None:
    served = Served(names=("facts",))
    base = next(iter(served.bases))
    most = 1000 - 2 * room_for(5)
    fits = [Triple(f"n{number}", "p", "v") for number in range(most * 8 // 9 - 5)]
    served.engine.check_room(base, fits)
    with pytest.raises(NoRoomError):
        served.engine.check_room(base, [*fits, *(Triple(f"m{number}", "p", "v") for number in range(20))])
