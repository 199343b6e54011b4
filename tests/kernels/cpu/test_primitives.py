"""What the kernels are made of: each primitive of csrc/isa/contract.h, on each table, against plain code."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path

from kblam_kernels.common import build

DRIVER = Path(__file__).with_name("primitives.cpp")


def test_each_primitive_is_what_plain_code_says(instruction_set: str, tmp_path: Path) -> None:
    folder = build.source_folder()
    table = f"isa/kernels_{instruction_set}.cpp"
    (flags,) = (unit.flags for unit in build.kernel_units(folder) if unit.source == folder / table)
    command = [*build.compiler(), build.LANGUAGE, "-O0", "-Wall", *flags, f"-I{folder}", f'-DTABLE="{table}"']
    program = tmp_path / "primitives"
    subprocess.run([*command, str(DRIVER), "-o", str(program)], check=True, timeout=300)
    done = subprocess.run([str(program)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (0, f"{instruction_set}: 0 wrong\n")


def test_all_primitives_of_the_contract_are_tried() -> None:
    contract = (build.source_folder() / "isa/contract.h").read_text()
    overloads = Counter(re.findall(r"^(?:F|float|void) (\w+)\(", contract, re.MULTILINE))
    assert len(overloads) > 30
    driver = "".join(path.read_text() for path in DRIVER.parent.glob("primitives*"))
    # Not std::max(...), nor a member.
    calls = Counter(re.findall(r"(?<![\w:.])(\w+)(?:<[^<>()]*>)?\(", driver))
    # One check, made for each type that is loaded.
    for name in ("load", "load_first"):
        calls[name] *= len(set(re.findall(r"\bcheck_loads<(\w+)>\(", driver)))
    assert {name: number for name, number in overloads.items() if calls[name] < number} == {}
