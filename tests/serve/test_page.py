"""The page in a real browser: asked with the keyboard, on a narrow screen, in the dark, by hostile facts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kblam import Triple
from kblam.knowledge import Source
from kblam.serve.bases import Bases
from kblam.serve.keys import Keys
from tests.generation.asking import FACTS
from tests.serve.browser import BINARY, Page, browsing
from tests.serve.conftest import Counting
from tests.serve.served import ANSWER, QUESTION, base_of, serving

pytestmark = pytest.mark.skipif(BINARY is None, reason="no chromium is installed (apt-get install chromium)")
EVIL = "<img src=x onerror=document.title='taken'><script>document.title='taken'</script>"
IS_DONE = "!document.querySelector('#ask').disabled && document.querySelector('#figures').innerText !== ''"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browsing(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for who wants to look: pytest's --basetemp says where."""
    return tmp_path_factory.mktemp("pictures")


def test_it_is_asked_and_told_a_fact_with_the_keyboard_alone(page: Page, pictures: Path) -> None:
    facts = [replace(FACTS[0], sources=(Source(EVIL, EVIL, 2),)), *FACTS[1:], Triple(EVIL, EVIL, EVIL)]
    with serving(Bases([base_of(facts=facts)])) as served:
        page.size(1100, 900)
        page.scheme("light")
        page.open(served.url)
        page.until("document.querySelectorAll('#triples li').length === 6")
        assert "tiny-model, engine: transformers (embedded)" in page.text("#about")
        assert page.run("document.querySelector('#base').value") == "tiny-model@facts"
        page.tab_to("#question")
        page.type(QUESTION)
        page.press("Enter")
        page.until(IS_DONE)
        assert page.text("#answer") == ANSWER
        assert "the currency of France: Euro" in page.text("#evidence li")
        assert page.text("#evidence .source") == f"{EVIL}, page 2: “{EVIL}”"
        assert page.run("document.querySelector('#evidence .bar > span').style.width") != ""
        assert "first after" in page.text("#figures")
        assert "tokens/s" in page.text("#figures")
        assert page.run("document.querySelector('#verdict').hidden")
        page.picture(pictures / "desktop.png")

        for field, text in (("name", "France"), ("property", "currency"), ("value", "Franc")):
            page.tab_to(f"#fact-{field}")
            page.type(text)
        page.press("Enter")
        page.until("!document.querySelector('#again').hidden")
        assert page.text("#fact-done") == "changed; revision 2"
        page.tab_to("#again")
        page.press("Enter")
        page.until(f"{IS_DONE} && document.querySelector('#answer').innerText.includes('Franc.')")
        assert page.text("#answer") == "The currency of France is Franc."

        page.run("document.querySelector('#question').value = 'who are you'")
        page.tab_to("#ask")
        page.press("Enter")
        page.until(f"{IS_DONE} && !document.querySelector('#verdict').hidden")
        assert page.text("#verdict").startswith("refused")
        page.picture(pictures / "refused.png")
        assert page.run("document.title") == "kblam: ask a knowledge base"
        assert EVIL in page.text("#triples")

        page.tab_to("#search")
        page.type("onerror")
        page.until("document.querySelectorAll('#triples li').length === 1")
        page.tab_to("#triples button")
        page.press("Enter")
        page.until("document.querySelectorAll('#triples li').length === 0")
        assert page.text("#fact-done") == "removed; revision 3"
        assert page.problems == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_narrow_screen_in_light_and_dark(page: Page, pictures: Path, scheme: str) -> None:
    long = Triple("A" * 300, "property " * 30, "https://" + "x" * 400)
    with serving(Bases([base_of(facts=[*FACTS, long])])) as served:
        page.size(360, 740)
        page.scheme(scheme)
        page.open(served.url)
        page.until("document.querySelectorAll('#triples li').length === 6")
        page.tab_to("#question")
        page.type(QUESTION)
        page.press("Enter")
        page.until(IS_DONE)
        assert page.run("document.documentElement.scrollWidth") <= 360
        ground = page.run("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, ground[4:-1].split(","))) < 200) == (scheme == "dark")
        page.picture(pictures / f"narrow-{scheme}.png")
        if scheme == "dark":
            page.size(1100, 900)
            page.picture(pictures / "dark.png")
        assert page.problems == []


@pytest.mark.parametrize(("width", "beside"), [(1100, True), (360, False)])
def test_rag_is_asked_next_and_shown_beside_or_below(
    page: Page, pictures: Path, width: int, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kblam.serve.embedded.DEFAULT_TOKENS", 24)  # the tiny model has room for little more
    facts = [replace(FACTS[0], sources=(Source(EVIL, EVIL, 2),)), *FACTS[1:]]
    with serving(Bases([base_of(facts=facts)]), with_rag=True) as served:
        page.size(width, 900)
        page.scheme("light")
        page.open(served.url)
        page.until("document.querySelectorAll('#triples li').length === 5")
        assert page.run("[...document.querySelector('#base').options].map(one => one.value).join()") == (
            "tiny-model,tiny-model@facts"
        )
        page.tab_to("#question")
        page.type(QUESTION)
        page.press("Enter")
        page.until(IS_DONE)
        assert page.text("#answer") == ANSWER
        assert page.run("document.querySelectorAll('#rag-evidence li').length") == 5
        assert "the currency of France: Euro" in page.text("#rag-evidence li")
        assert page.text("#rag-evidence .source") == f"{EVIL}, page 2: “{EVIL}”"
        for figures in ("#figures", "#rag-figures"):
            assert "first after" in page.text(figures)
        ours, rag = (
            page.run(f"(one => [one.left, one.top])(document.querySelector('{title}').getBoundingClientRect())")
            for title in ("#ours-title", "#rag-title")
        )
        assert (rag[0] > ours[0], rag[1] > ours[1]) == (beside, not beside)
        assert page.run("document.documentElement.scrollWidth") <= width
        page.picture(pictures / f"rag-{width}.png")

        page.tab_to("#compare")
        page.run("document.activeElement.click()")
        page.tab_to("#ask")
        page.press("Enter")
        page.until(f"{IS_DONE} && document.querySelector('#rag').hidden")
        assert page.problems == []


def test_an_answer_can_be_stopped_and_a_key_is_asked_for(page: Page) -> None:
    key = "acme-key-0123456789"
    engine = Counting()
    with serving(Bases([base_of("facts", "acme")]), engine, Keys([("acme", key)])) as served:
        page.size(1100, 900)
        page.open(served.url)
        page.until("!document.querySelector('#key-form').hidden")
        page.tab_to("#key")
        page.type(key)
        page.press("Enter")
        page.until("document.querySelectorAll('#triples li').length === 5")
        assert page.run("document.querySelector('#key-form').hidden")
        page.tab_to("#question")
        page.type("count")
        page.press("Enter")
        page.until("document.querySelector('#answer').innerText.startsWith('0 1 2')")
        page.tab_to("#stop")
        page.press("Enter")
        page.until("document.querySelector('#figures').innerText === 'stopped'")
        page.until("true")
        assert key not in str(page.run("document.documentElement.outerHTML + JSON.stringify(localStorage)"))
