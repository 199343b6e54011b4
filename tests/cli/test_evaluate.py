"""`kblam eval` from end to end on a tiny model: every kind of row, reports that grow, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kblam import KnowledgeBase, Triple
from kblam.cli import evaluate
from kblam.cli.loading import ModelOptions
from kblam.errors import DataError
from kblam.evaluation.plan import Plan
from kblam.evaluation.report import Report
from tests.cli.conftest import ENCODER, kblam
from tests.fakes import HashingEncoder
from tests.generation.tiny import FACTS, make_prefer, save_base, tiny_adapter, tiny_model, tiny_tokenizer

FEW = ["--questions", "8"]


def real_facts(name: str, source: str | None = None) -> list[tuple[str, str, str]]:
    """In the place of the real bases."""
    if name != "elements":
        raise DataError(f"the package of {name} is not installed")
    return [(f"element {n}", prop, f"{prop} {n}") for n in range(8) for prop in ("symbol", "density", "use")]


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model never ends an answer by itself; of the world and the real bases only a small part is there."""
    monkeypatch.setattr("kblam.evaluation.material.ASKED_ABOUT", 150)
    monkeypatch.setattr("kblam.evaluation.loop.LIMIT", 12)
    monkeypatch.setattr("kblam.evaluation.loop.TIMED", 2)
    monkeypatch.setattr("kblam.evaluation.general.MAX_NEW_TOKENS", 4)
    monkeypatch.setattr("kblam.evaluation.plan.UNSEEN_TRIPLES", 80)
    monkeypatch.setattr("kblam.evaluation.material.real_facts", real_facts)
    monkeypatch.setattr("kblam.evaluation.material.general_questions", lambda **_: ("What is 2 + 2?", "Hello!"))


@pytest.fixture(scope="session")
def roomy(tmp_path_factory: pytest.TempPathFactory) -> list[Path | str]:
    """The options for a tiny model that has room for real questions, with its adapter."""
    folder = tmp_path_factory.mktemp("roomy")
    save_base(folder / "model", positions=512)
    model = tiny_model(tiny_tokenizer(), positions=512)
    adapter = tiny_adapter(model, ENCODER, base_model=str(folder / "model"))
    make_prefer(model, adapter, ENCODER, FACTS[0])
    adapter.save_pretrained(folder / "adapter")
    return ["--model", folder / "model", "--adapter", folder / "adapter"]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A knowledge base of twelve items with three properties each."""
    file = tmp_path / "own.kb"
    properties = {"colour": "shade {} of grey", "weight": "{} kg", "maker": "Smith and {}"}
    with KnowledgeBase.create(file, ENCODER) as made:
        made.add([Triple(f"Item {n}", p, value.format(n + 20)) for n in range(12) for p, value in properties.items()])
    return file


def test_sizes_unseen_words_general_questions_and_the_files(
    roomy: Sequence[Any], hashing: HashingEncoder, tmp_path: Path
) -> None:
    files = ["--json", tmp_path / "r.json", "--markdown", tmp_path / "r.md"]
    picture = ["--png", tmp_path / "r.png"] if importlib.util.find_spec("matplotlib") else []
    run = kblam(
        "eval", *roomy, *FEW, "--demo", "--sizes", "60,100", "--baselines", "rag,zero-shot", *files, *picture
    ).ok()
    report = Report.read(tmp_path / "r.json")
    assert list(report.rows) == ["sizes", "unseen", "real", "baselines", "general"]
    assert list(report.rows["real"]) == ["elements"]
    assert report.about["skipped"] is None
    assert list(report.rows["sizes"]) == ["60", "100"]
    for row in (*report.rows["sizes"].values(), report.rows["unseen"], report.rows["real"]["elements"]):
        assert row["questions"] == 8
        assert {"exact", "top1", "top5", "refusal_recall", "learned", "first_token_ms", "ms_per_token"} <= set(row)
    assert set(report.rows["baselines"]) == {"kblam", "rag", "zero-shot"}
    assert all(list(rows) == ["60", "100"] for rows in report.rows["baselines"].values())
    assert report.rows["general"]["triples"] == 100
    assert report.about["seed"] == 0
    assert {"model", "adapter", "commit", "versions", "device"} <= set(report.about)
    assert run.stdout.strip() == (tmp_path / "r.md").read_text().strip()
    lines = [line for line in run.stderr.splitlines() if line.strip()]
    assert any("4 rows of 8 questions: about " in line for line in lines)
    assert any(line.startswith("100 triples: exact") for line in lines)
    if picture:
        assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"


def test_baselines_get_as_many_questions_as_one_asks_for(
    roomy: Sequence[Any], hashing: HashingEncoder, tmp_path: Path
) -> None:
    """Sixteen questions about 20 triples are of two bases, so twelve are all of the first and two of the second."""
    asked = ["eval", *roomy, "--sizes", "20", "--questions", "16", "--baselines", "rag", "--json", tmp_path / "r.json"]
    kblam(*asked, "--baseline-questions", "12").ok()
    report = Report.read(tmp_path / "r.json")
    assert report.rows["sizes"]["20"]["questions"] == 16
    assert [report.rows["baselines"][name]["20"]["questions"] for name in ("kblam", "rag")] == [12, 12]
    asked = ["eval", *roomy, *FEW, "--baseline-questions", "12"]
    kblam(*asked).failed(2, "--baseline-questions is of baselines, and none was asked for; add --baselines rag")


def test_unseen_words_and_general_questions_are_asked_for_by_name(
    roomy: Sequence[Any], hashing: HashingEncoder, tmp_path: Path
) -> None:
    asked = ["eval", *roomy, *FEW, "--json", tmp_path / "r.json"]
    kblam(*asked, "--unseen").ok()
    assert list(Report.read(tmp_path / "r.json").rows) == ["unseen"]
    kblam(*asked, "--sizes", "60", "--general").ok()
    report = Report.read(tmp_path / "r.json")
    assert list(report.rows) == ["sizes", "general"]
    assert report.rows["general"]["triples"] == 60


def test_a_cache_gives_the_same_figures_and_encodes_once(
    roomy: Sequence[Any], hashing: HashingEncoder, own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kblam.evaluation.bases.LEAST_KEPT", 30)

    def measured(*more: object) -> tuple[int, dict[str, Any]]:
        hashing.calls.clear()
        asked = ["--sizes", "40", "--kb", own, "--baselines", "rag", "--json", tmp_path / "r.json"]
        kblam("eval", *roomy, *FEW, *asked, *more).ok()
        report = Report.read(tmp_path / "r.json").rows
        rows = [report["sizes"]["40"], report["kb"], report["baselines"]["rag"]["40"]]
        figures = [
            {name: value for name, value in row.items() if "ms" not in name and name != "peak_mib"} for row in rows
        ]
        keys = [text for text in hashing.calls if text.startswith("the ")]
        return len([key for key in keys if not key.startswith("the colour of Thing ")]), figures  # without the pace's

    plain, made, found = measured(), measured("--cache", tmp_path / "c"), measured("--cache", tmp_path / "c")
    assert plain[1] == made[1] == found[1]
    assert plain[0] >= 40
    assert made[0] >= 40
    assert found[0] == 0
    assert len([*(tmp_path / "c").iterdir()]) == 1, "one's own base is a file already"
    kblam("eval", *roomy, "--cache", tmp_path / "r.json").failed(2, "cannot keep knowledge bases in", "is a file")


def test_quick_asks_each_question_once(roomy: Sequence[Any], hashing: HashingEncoder, tmp_path: Path) -> None:
    asked = ["eval", *roomy, *FEW, "--sizes", "60", "--json", tmp_path / "r.json"]
    rows = []
    for more in ([], ["--quick"]):
        kblam(*asked, *more).ok()
        report = Report.read(tmp_path / "r.json")
        rows.append({name: of for name, of in report.rows["sizes"]["60"].items() if not name.endswith(("ms", "mib"))})
        assert report.about["quick"] is (True if more else None)
    whole, quick = rows
    assert set(whole) - set(quick) == {"top1_by_layer", "top5_by_layer"}
    assert all(whole[name] == of for name, of in quick.items() if name not in ("intervals", "ms_per_token"))


def test_a_size_that_is_written_twice_is_one_row() -> None:
    chosen = evaluate._Rows("1000,1_000,01000,60", None, False, False, False, has_own=False)
    assert evaluate._plan(chosen, None, 8, None, 0).sizes == (1000, 60)


def test_own_triples_alone_give_one_row(
    roomy: Sequence[Any], own: Path, hashing: HashingEncoder, tmp_path: Path
) -> None:
    hashing.calls.clear()
    before = own.read_bytes()
    kblam("eval", *roomy, "--kb", own, *FEW, "--json", tmp_path / "r.json").ok()
    report = Report.read(tmp_path / "r.json")
    assert list(report.rows) == ["kb"]
    assert 24 <= report.rows["kb"]["triples"] <= 36
    assert "trained or calibrated on this base" in report.rows["kb"]["note"]
    assert own.read_bytes() == before, "what is taken out is taken out of a copy"
    assert not [text for text in hashing.calls if "Item 3" in text and text.startswith("the ")], "nothing encoded again"


@pytest.fixture
def keyed(tmp_path: Path) -> Path:
    """A knowledge base of twelve items whose keys are made from texts of their own."""
    file = tmp_path / "keyed.kb"
    with KnowledgeBase.create(file, ENCODER) as made:
        made.add(
            [
                Triple(f"Item {n}", prop, f"{n} {prop}", key_string=f"{prop}, as number {n} has it")
                for n in range(12)
                for prop in ("colour", "weight", "maker")
            ]
        )
    return file


def test_own_triples_are_asked_for_by_the_keys_that_their_file_gives_them(
    roomy: Sequence[Any], keyed: Path, hashing: HashingEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Triple] = []
    from_triples = KnowledgeBase.from_triples

    def kept(triples: Sequence[Triple], encoder: Any) -> KnowledgeBase:
        made.extend(triple for triple in triples if triple.name.startswith("Item "))
        return from_triples(triples, encoder)

    monkeypatch.setattr("kblam.evaluation.run.KnowledgeBase.from_triples", kept)
    hashing.calls.clear()
    kblam("eval", *roomy, "--kb", keyed, *FEW, "--baselines", "rag", "--json", tmp_path / "r.json").ok()
    with KnowledgeBase.open(keyed, ENCODER) as opened:
        stored = set(opened.triples())
    assert made
    assert set(made) <= stored
    assert not [text for text in hashing.calls if " of Item " in text and text.startswith("the ")], "no other key"
    assert not [text for text in hashing.calls if text in {triple.key_text for triple in stored}], "nothing again"


def test_the_same_seed_asks_the_same(roomy: Sequence[Any], own: Path, hashing: HashingEncoder, tmp_path: Path) -> None:
    def measured(seed: int) -> tuple[list[str], dict[str, Any]]:
        hashing.calls.clear()
        kblam("eval", *roomy, "--kb", own, *FEW, "--seed", seed, "--json", tmp_path / "r.json").ok()
        row = json.loads((tmp_path / "r.json").read_text())["kb"]
        questions = [text for text in hashing.calls if "item " in text.lower()]
        return questions, {name: value for name, value in row.items() if "ms" not in name and name != "peak_mib"}

    first, again, another = measured(1), measured(1), measured(2)
    assert first == again
    assert len(first[0]) == 8
    assert first[0] != another[0]


def test_a_run_that_is_stopped_keeps_its_rows_and_says_which_base_it_could_not_read(
    roomy: Sequence[Any], hashing: HashingEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kblam.evaluation import run

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "measure_general", stopped)
    monkeypatch.setattr("kblam.cli.evaluate.DEMO_REAL", "airports")
    result = kblam(
        "eval", *roomy, *FEW, "--sizes", "60", "--demo", "--baselines", "zero-shot", "--json", tmp_path / "r.json"
    )
    assert result.status == 130
    assert f"what was measured is in {tmp_path / 'r.json'}" in result.stderr
    report = Report.read(tmp_path / "r.json")
    assert list(report.rows) == ["sizes", "unseen", "baselines"]
    assert report.about["skipped"] == {"airports": "the package of airports is not installed"}


def test_bad_input_is_named_before_anything_is_loaded(roomy: Sequence[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    kblam("eval", *roomy, "--sizes", "100,many").failed(2, "--sizes: 'many' is not a number of triples")
    kblam("eval", *roomy, "--sizes", "3").failed(2, "'3'", "at least 20")
    kblam("eval", *roomy, "--sizes", "²5").failed(2, "--sizes: '²5' is not a number of triples")
    kblam("eval", *roomy, "--sizes", "9" * 5000).failed(2, "is not a number of triples")
    kblam("eval", *roomy, "--baselines", "magic").failed(2, "there is no 'magic'; possible: rag, in-context, zero-shot")
    kblam("eval", *roomy, "--real", "elements,atlantis").failed(2, "the package of atlantis is not installed")
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "matplotlib" else find(name, *rest)
    )
    kblam("eval", *roomy, "--png", "a.png").failed(2, "needs matplotlib", "pip install 'kblam-kernels[eval]'")


def test_rag_searches_with_an_encoder_of_its_own(
    roomy: Sequence[Any], own: Path, hashing: HashingEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Bge(HashingEncoder):
        spec = "BAAI/bge-small-en-v1.5"

    encoder = Bge(8)
    monkeypatch.setattr("kblam.knowledge.load_encoder", lambda spec: {encoder.spec: encoder}[spec])
    asked = ["eval", *roomy, "--kb", own, *FEW, "--baselines", "rag", "--rag-encoder", encoder.spec]
    kblam(*asked, "--json", tmp_path / "r.json").ok()
    about = Report.read(tmp_path / "r.json").about
    instruction = "Represent this sentence for searching relevant passages: "
    assert (about["rag encoder"], about["rag instruction"]) == (encoder.spec, instruction)
    assert [text for text in encoder.calls if text.startswith(f"{instruction}")]
    facts = [f"the {prop} of Item {n}" for n in range(12) for prop in ("colour", "weight", "maker")]
    assert 24 <= len([text for text in encoder.calls if text in facts]) <= 36
    assert not [text for text in encoder.calls if text in [instruction + fact for fact in facts]]
    assert not [text for text in hashing.calls if instruction in text], "the base's own encoder is not asked by it"
    kblam(*asked, "--rag-instruction", "query: ", "--json", tmp_path / "r.json").ok()
    assert Report.read(tmp_path / "r.json").about["rag instruction"] == "query: "


def test_an_encoder_of_rag_is_loaded_before_anything_is_measured(roomy: Sequence[Any], own: Path) -> None:
    asked = ["eval", *roomy, "--kb", own, *FEW]
    kblam(*asked, "--rag-encoder", "minilm").failed(2, "--rag-encoder is of the baseline rag", "--baselines rag")
    kblam(*asked, "--rag-instruction", "x").failed(2, "--rag-instruction is of the baseline rag")
    missing = kblam(*asked, "--baselines", "rag", "--rag-encoder", "BAAI/bge-small-en-v1.5")
    missing.failed(2, "cannot load the encoder 'BAAI/bge-small-en-v1.5'", "a folder that holds the model")


@pytest.mark.parametrize("more", [[], ["--demo"]], ids=str)
def test_a_base_that_is_too_small_is_refused_before_anything_is_measured(
    more: list[str], roomy: Sequence[Any], tmp_path: Path, hashing: HashingEncoder
) -> None:
    with KnowledgeBase.create(tmp_path / "two.kb", ENCODER) as made:
        made.add(FACTS[:2])
    asked = ("--kb", tmp_path / "two.kb", *FEW, "--sizes", "60", *more, "--json", tmp_path / "r.json")
    kblam("eval", *roomy, *asked).failed(2, f"at least 3 names; {tmp_path / 'two.kb'} has 2")
    assert not (tmp_path / "r.json").exists()


def test_the_report_says_what_was_measured(
    roomy: Sequence[Any], own: Path, hashing: HashingEncoder, tmp_path: Path
) -> None:
    kblam("eval", *roomy, "--kb", own, *FEW, "--backend", "reference", "--json", tmp_path / "r.json").ok()
    about = Report.read(tmp_path / "r.json").about
    assert (about["adapter"], about["knowledge base"]) == (str(roomy[3]), str(own))
    assert about["backend"] == "reference"


def test_the_report_names_the_adapter_that_is_taken_where_none_is_named(
    smollm2: Path, kb: Path, hashing: HashingEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    abouts = []
    for file, backend in ((None, ""), (kb, "reference")):
        monkeypatch.setenv("KBLAM_BACKEND", backend)
        options = ModelOptions(None, None, file)
        with evaluate._loaded(options, "minilm") as (loaded, _):
            abouts.append(evaluate._about(loaded, options, Plan(), {}))
    assert [about["adapter"] for about in abouts] == [str(smollm2)] * 2
    assert [about["knowledge base"] for about in abouts] == [None, str(kb)]
    assert [about["backend"] for about in abouts] == [None, "reference"]


@pytest.mark.parametrize("option", ["--json", "--markdown", "--png"])
def test_a_report_that_cannot_be_written_is_told_before_anything_is_measured(tmp_path: Path, option: str) -> None:
    (tmp_path / "file").write_text("")
    for place, told in ((tmp_path, "is a folder; name a file in it"), (tmp_path / "file" / "r", "may be written")):
        kblam("eval", "--model", "none at all", option, place).failed(2, told)
    other, one = "--json" if option == "--markdown" else "--markdown", tmp_path / "r.png"
    (tmp_path / "link").symlink_to(one)
    kblam("eval", "--model", "none at all", option, one, other, tmp_path / "link").failed(
        2, "two of the reports are one file"
    )


@pytest.mark.parametrize("options", [["eval", "--json"], ["eval", "--markdown"], ["bench", "--json"]], ids=" ".join)
def test_a_report_never_replaces_a_knowledge_base(own: Path, options: list[str]) -> None:
    before = own.read_bytes()
    kblam(*options, own).failed(2, f"{own} is a knowledge base, which", "would replace; name another file")
    assert own.read_bytes() == before


def test_a_picture_of_an_unknown_kind_is_told_before_anything_is_measured() -> None:
    for name in ("r", "r.xyz"):
        kblam("eval", "--model", "none at all", "--png", name).failed(2, f"{name!r} ends as no picture does", ".png")
