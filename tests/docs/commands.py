"""Commands as a page gives them: run where that is cheap, else checked for what they name."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from packaging.requirements import Requirement

from sigma_monitor.cli import main

__all__ = ["ROOT", "run", "split"]

ROOT = Path(__file__).parents[2]
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")
_OURS = ("sigma_monitor", "sigma-monitor")


def split(source: str) -> list[list[str]]:
    """Words of each command; comments and assignments in front of it are left out."""
    lines = source.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        words = shlex.split(line, comments=True)
        while words and _ASSIGNMENT.fullmatch(words[0]):
            words = words[1:]
        if words:
            found.append(words)
    return found


def run(words: Sequence[str], exits: Mapping[str, int]) -> None:
    """Run the command, or check it; an `AssertionError` says what of it does not hold.

    Args:
        words: Program and arguments.
        exits: By command of ours, the exit code where it is not 0.
    """
    program, *arguments = _started(words)
    checks = {"pip": _installs, "make": _makes, "python": _script, "git": _clones}
    checks |= dict.fromkeys(("cd", "venv", "."), _one)
    if program in _OURS:
        _ours(arguments, exits.get(arguments[0], 0))
    else:
        assert program in checks, f"{program}: no check knows this program"
        checks[program](arguments)


def _started(words: Sequence[str]) -> list[str]:
    """Program and arguments, without what only starts it."""
    program, *arguments = words
    if [program, *arguments[:1]] == ["accelerate", "launch"]:
        return arguments[arguments.index("-m") + 1 :]
    if program == "python" and arguments[:1] == ["-m"]:
        return arguments[1:]
    return [program, *arguments]


def _ours(arguments: Sequence[str], expected: int) -> None:
    """Really run, but for what trains for minutes or needs a server."""
    if arguments[0] == "demo":
        done = SimpleNamespace(as_expected=True, table=lambda: "", to_dict=dict)
        with mock.patch("sigma_monitor.demo.run_demo", return_value=done):
            code = main(arguments)
    elif arguments[0] == "wandb-workspace":
        code = main([*arguments, "--dry-run"])
    elif arguments[0] == "watch":  # until the run has ended, which here it need not do
        code = main([*arguments, "--once"])
    else:
        code = main(arguments)
    assert code == expected, f"sigma-monitor {shlex.join(arguments)} exits with {code}"


def _installs(arguments: Sequence[str]) -> None:
    command, *names = arguments
    assert command == "install"
    text = (ROOT / "pyproject.toml").read_text()
    _, section = text.split("[project.optional-dependencies]\n")
    extras = set(re.findall(r"^(\w+) = \[", section.split("\n\n")[0], re.MULTILINE))
    options = {"--target": 1, "--no-deps": 0, "-e": 0}
    while names:
        name, *names = names
        if name in options:
            names = names[options[name] :]
            continue
        asked = Requirement(f"sigma-monitor{name[1:]}" if name.startswith(".") else name)
        if asked.name == "sigma-monitor":
            assert asked.extras <= extras, f"{name}: no such extra"


def _makes(targets: Sequence[str]) -> None:
    text = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", text, re.MULTILINE), f"make {target}: no such target"


def _script(arguments: Sequence[str]) -> None:
    """It is there and knows the options; the examples have tests that run them.

    One that a page tells its reader to save is the block above, which was run.
    """
    path = Path(arguments[0]) if Path(arguments[0]).exists() else ROOT / arguments[0]
    assert path.exists(), f"{arguments[0]} is not there"
    source = (path / "__main__.py" if path.is_dir() else path).read_text()
    for option in (word for word in arguments[1:] if word.startswith("--")):
        assert f'"{option}"' in source, f"{arguments[0]} has no option {option}"


def _clones(arguments: Sequence[str]) -> None:
    assert arguments[0] == "clone"


def _one(arguments: Sequence[str]) -> None:
    assert len(arguments) == 1
