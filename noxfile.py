"""What takes an environment of its own: `nox --list` shows the sessions, CONTRIBUTING.md the rest.

Those of hosts write what their tests have shown into benchmarks/results/compatibility/.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

# What is old together: each release of transformers fits only some of its neighbours'.
VERSIONS = {
    "4.50.3": (
        "transformers==4.50.3",
        "accelerate==1.5.2",
        "peft==0.15.2",
        "sentence-transformers==4.1.0",
        "lightning==2.4.0",
        "pytorch-lightning==2.4.0",
        "datasets==3.6.0",
    ),
    "4.57.6": (
        "transformers==4.57.6",
        "accelerate==1.12.0",
        "peft==0.18.1",
        "sentence-transformers==5.2.3",
        "lightning==2.5.6",
        "pytorch-lightning==2.5.6",
        "datasets==5.0.1",
    ),
}
TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "tensorboard")
# Those of TRL need a newer transformers than these.
HOSTS = ("accelerate", "lightning_*", "sentence_transformers", "trainer_*", "worlds")
ROOT = Path(__file__).parent

nox.options.sessions = []  # none without being asked for: each takes minutes


@nox.session
@nox.parametrize("transformers", list(VERSIONS))
def hosts(session: nox.Session, transformers: str) -> None:
    """The tests of hosts beside an older transformers."""
    _torch(session)
    session.install("-e", ".", *VERSIONS[transformers], *TOOLS)
    found = [path for host in HOSTS for path in ROOT.glob(f"tests/integrations/test_{host}.py")]
    _run(session, f"transformers-{transformers}", *(session.posargs or map(str, sorted(found))))


@nox.session
def newest(session: nox.Session) -> None:
    """Every marked test on the versions of constraints.txt, the newest that were tried."""
    _torch(session)
    session.install("-c", "constraints.txt", "-e", ".[dev]")
    _run(session, "newest", *session.posargs)


@nox.session
def deepspeed(session: nox.Session) -> None:
    """ZeRO, which is not among the packages of constraints.txt; it compiles with g++."""
    _torch(session)
    session.install("-c", "constraints.txt", "-e", ".", *TOOLS, "peft", "deepspeed==0.19.8")
    _run(session, "deepspeed", *(session.posargs or ["tests/integrations/test_deepspeed.py"]))


@nox.session
def package(session: nox.Session) -> None:
    """Wheel and sdist into dist/, and each in an empty environment."""
    shutil.rmtree(ROOT / "dist", ignore_errors=True)
    session.install("build", "twine")
    session.run("python", "-m", "build")
    built = sorted((ROOT / "dist").iterdir())
    session.run("twine", "check", "--strict", *map(str, built))
    _torch(session)
    for artifact in built:
        session.install("--force-reinstall", "--no-deps", str(artifact))
        session.install("-c", "constraints.txt", str(artifact))
        with session.chdir(session.create_tmp()):  # away from the folder of the same name
            session.run("sigma-monitor", "--version")
            session.run("sigma-monitor", "doctor")
            session.run("sigma-monitor", "demo")


def _torch(session: nox.Session) -> None:
    """First, and in the exact version: it picks the build that an index of CPU builds offers."""
    session.install("-c", "constraints.txt", "torch")


def _run(session: nox.Session, name: str, *arguments: str) -> None:
    results = f"benchmarks/results/compatibility/{name}.json"
    session.run("pytest", "-m", "shows", f"--compatibility={results}", *arguments)
