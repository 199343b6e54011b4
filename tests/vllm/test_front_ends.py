"""Questions are encoded by the encoder of the base that they are asked of; no vLLM is needed."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from kblam import KnowledgeBase, Triple
from kblam.adapter import AdapterConfig
from kblam.errors import EncoderError, EngineError, EngineRequestError, StoreReplacedError
from kblam.knowledge.encoders import Progress
from kblam.vllm import admission
from kblam.vllm.admission import ENCODER, FAILED, SAMPLES, VECTOR, FrontEnd, admit, asked_of, encode_ahead
from kblam.vllm.files import BaseNames
from kblam.vllm.registry import Loaded, Registry, file_at, open_folder
from kblam.vllm.response import said_of
from tests.fakes import HashingEncoder

WIDTH, QUESTION = 16, "What is the color of the falcon?"
CONFIG = AdapterConfig(WIDTH, 32, 4, 2, 16, question_head="linear")


class Engine(SimpleNamespace):
    """As much of vLLM's config as is read."""


@pytest.fixture(autouse=True)
def _one_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(admission, "_OPEN", [])
    monkeypatch.setattr(
        "kblam.knowledge.knowledge_base.load_recorded_encoder", lambda spec, _: encoder_of(int(spec.split(":")[1]))
    )


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., Any]:
    """Starts an engine with bases of an encoder, by name; returns its config, which it lives as long as."""
    alive = []

    def started(seed: int, *names: str) -> Any:
        settings = {"kblam": {"adapter": "a folder"}}
        model = SimpleNamespace(max_model_len=64, get_vocab_size=lambda: 100)
        alive.append(Engine(instance_id=str(len(alive)), additional_config=settings, model_config=model))
        open_folder(alive[-1])
        Registry(alive[-1]).say_bases({name: loaded(tmp_path / f"{name} {len(alive)}.kb", seed) for name in names})
        admission.opens(alive[-1], CONFIG)
        return alive[-1]

    return started


class Slow(HashingEncoder):
    """Counts its texts; takes as long as the test says for one that begins with "Slow"."""

    texts: ClassVar[list[str]] = []
    began, may_end = threading.Event(), threading.Event()

    def encode(self, texts: Sequence[str], *, progress: Progress | None = None) -> np.ndarray:
        Slow.texts += texts
        if any(text.startswith("Slow") for text in texts):
            Slow.began.set()
            assert Slow.may_end.wait(60)
        return super().encode(texts, progress=progress)


def encoder_of(seed: int) -> HashingEncoder:
    return Slow(WIDTH, seed=seed)


def loaded(path: Path, seed: int) -> Loaded:
    with KnowledgeBase.create(path, encoder_of(seed)) as base:
        base.add(Triple("Falcon", "color", "grey"))
        return Loaded(base.revision, 1, len(base), str(path), file_at(path), base.fingerprint)


def asking(base: str) -> Any:
    return SimpleNamespace(n=1, extra_args={"kblam_kb": base, "kblam_question": QUESTION})


def vector(seed: int) -> Any:
    return pytest.approx(encoder_of(seed).encode([QUESTION])[0].tolist())


def test_of_two_engines_each_reads_its_own_encoder_s_vectors(start: Callable[..., Any]) -> None:
    engines = [start(0, "facts"), start(1, "others")]
    for seed, base in enumerate(("facts", "others")):
        params = asking(base)
        admit(params)
        assert params.extra_args[VECTOR] == vector(seed)
        assert FrontEnd(engines[seed], CONFIG).check_encoded(asked_of(params), params) is not None


def test_vectors_of_another_engine_s_encoder_are_refused_where_names_are_the_same(start: Callable[..., Any]) -> None:
    """vLLM does not say to which engine a request goes, and one vector is as wide as the other."""
    first, second = start(0, "facts"), start(1, "facts")
    params = asking("facts")
    admit(params)
    assert FrontEnd(second, CONFIG).check_encoded(asked_of(params), params) is not None
    with pytest.raises(EngineRequestError, match="for another engine of this process, which has a base 'facts' of ano"):
        FrontEnd(first, CONFIG).check_encoded(asked_of(params), params)
    start(0, "facts")  # of the same encoder as the first
    params = asking("facts")
    admit(params)
    assert FrontEnd(first, CONFIG).check_encoded(asked_of(params), params) is not None


def test_a_question_that_was_encoded_ahead_is_admitted_without_the_encoder(start: Callable[..., Any]) -> None:
    """Even while another is encoded: vLLM admits in the loop that serves all others."""
    start(0, "facts")
    params, slow = asking("facts"), {**asking("facts").extra_args, "kblam_question": "Slow, is it?"}
    encode_ahead(params.extra_args)
    assert VECTOR not in params.extra_args
    before = len(Slow.texts)
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(encode_ahead, slow) for _ in range(2)]
        assert Slow.began.wait(60)
        admitting = threading.Thread(target=admit, args=(params,))
        admitting.start()
        admitting.join(10)
        was_admitted = not admitting.is_alive()
        Slow.may_end.set()
        for one in waiting:
            one.result()
    admitting.join()
    assert was_admitted
    assert Slow.texts[before:] == ["Slow, is it?"], "once, for both that asked it"
    assert params.extra_args[VECTOR] == vector(0)


@pytest.mark.parametrize(
    "wrong",
    [{"kblam_kb": "none"}, {"kblam_question": "a" * 2000}, {"kblam_question": 5}, {"kblam_unknown": "answer"}],
    ids=str,
)
def test_what_cannot_be_answered_is_not_encoded_ahead_and_not_refused_twice(
    wrong: dict[str, Any], start: Callable[..., Any]
) -> None:
    start(0, "facts")
    params = asking("facts")
    params.extra_args |= wrong
    before = len(Slow.texts)
    encode_ahead(params.extra_args)
    assert len(Slow.texts) == before
    with pytest.raises(EngineRequestError):
        admit(params)


def test_while_a_base_is_followed_its_names_are_the_old_ones(tmp_path: Path) -> None:
    """Other threads read them: one that found none would be told that nothing is known."""
    with KnowledgeBase.create(tmp_path / "a.kb", encoder_of(0)) as base:
        for name in ("Falcon", "Owl"):
            base.add(Triple(name, "color", "grey"))
        names, seen = BaseNames(base), list[bool]()

        class Watched:
            def __getattr__(self, name: str) -> Any:
                seen.append(names.says_a_name(QUESTION) and names.is_property("color"))
                return getattr(base, name)

        base.remove("Owl", "color")
        watched: Any = Watched()
        names.follow(watched)
        assert all(seen)
        assert names.says_a_name(QUESTION)
        assert not names.says_a_name("Where is the owl?")


def test_nobody_says_by_himself_who_encoded_a_question(start: Callable[..., Any]) -> None:
    start(0, "facts")
    params = asking("facts")
    params.extra_args |= {VECTOR: [0.0] * WIDTH, ENCODER: "another"}
    admit(params)
    assert params.extra_args[VECTOR] == vector(0)
    assert params.extra_args[ENCODER] == encoder_of(0).fingerprint


def test_a_base_of_another_encoder_in_the_place_of_one_has_its_own_vectors(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    """An adapter may not record its encoder."""
    engine = start(0, "facts")
    admit(asking("facts"))
    Registry(engine).say_bases({"facts": loaded(tmp_path / "other.kb", 1)})
    params = asking("facts")
    admit(params)
    assert params.extra_args[VECTOR] == vector(1)


def test_the_encoder_is_not_taken_from_a_file_that_was_put_in_a_base_s_place(
    start: Callable[..., Any], tmp_path: Path
) -> None:
    engine = start(0, "facts", "others")
    loaded(tmp_path / "new.kb", 1)
    (tmp_path / "new.kb").replace(tmp_path / "facts 1.kb")
    params = asking("facts")
    admit(params)  # raised here, the error would end all requests of a call of `LLM.generate`
    assert not {VECTOR, ENCODER} & params.extra_args.keys()
    with pytest.raises(StoreReplacedError, match=r"facts 1\.kb was removed, or replaced by another file"):
        FrontEnd(engine, CONFIG).check_encoded(asked_of(params), params)
    params = asking("others")
    admit(params)
    assert params.extra_args[VECTOR] == vector(0)


def test_what_fails_before_the_scheduler_is_told_by_it_as_its_own_failures_are(
    start: Callable[..., Any],
) -> None:
    engine, params = start(0, "facts"), asking("facts")
    params.n = 2

    def fails(_: object, texts: Sequence[str], **__: object) -> None:
        raise EncoderError("the address says 502")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Slow, "encode", fails)
        admit(params)
    assert params.extra_args[SAMPLES] == 2
    with pytest.raises(EngineError, match="the address says 502") as told:
        FrontEnd(engine, CONFIG).check_encoded(asked_of(params), params)
    assert said_of(told.value) == {"error": "the address says 502", "of_request": False}
    admit(params)  # a caller may ask with the same parameters again
    assert FAILED not in params.extra_args


@pytest.mark.parametrize("failed", ["x", {}, {"error": 5}])
def test_nobody_else_says_that_a_front_end_failed(failed: object) -> None:
    with pytest.raises(EngineRequestError, match="kblam_failed is the front end's own"):
        asked_of(SimpleNamespace(extra_args={"kblam_kb": "facts", "kblam_failed": failed}))
