"""What is installed, and whether the package's metadata allows it."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from sigma_monitor.doctor.finding import Finding, State

__all__ = ["DISTRIBUTION", "examine_packages"]

DISTRIBUTION = "sigma-monitor"
_SECTION = "packages"
_OF_DEVELOPERS = ("dev", "docs")  # extras that nobody needs to use the package


def examine_packages() -> list[Finding]:
    """Python, what is always needed, and every extra."""
    try:
        about = metadata.metadata(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return [
            Finding(
                _SECTION,
                DISTRIBUTION,
                "failed",
                "it is on the path and not installed, so its bounds are not known",
                f"pip install {DISTRIBUTION}, or in a clone: pip install -e .",
            )
        ]
    requirements = [Requirement(line) for line in about.get_all("Requires-Dist") or ()]
    findings = [_python(about["Requires-Python"] or "")]
    findings += [_needed(r) for r in requirements if _applies(r)]
    for extra in about.get_all("Provides-Extra") or ():
        if extra not in _OF_DEVELOPERS:
            findings += _extra(extra, requirements)
    return findings


def _python(bounds: str) -> Finding:
    version = platform.python_version()
    if SpecifierSet(bounds).contains(version, prereleases=True):
        return Finding(_SECTION, "python", "ok", f"{version} ({bounds})")
    remedy = "Make an environment with such a Python, and install there."
    return Finding(_SECTION, "python", "failed", f"{version}, not {bounds}", remedy)


def _needed(requirement: Requirement) -> Finding:
    return _found(requirement, "failed", f'pip install "{_bare(requirement)}"')


def _extra(extra: str, requirements: list[Requirement]) -> Iterator[Finding]:
    for requirement in requirements:
        if _applies(requirement, extra) and not _applies(requirement):
            remedy = f'For the extra {extra}: pip install "{DISTRIBUTION}[{extra}]"'
            yield _found(requirement, "note", remedy)


def _found(requirement: Requirement, missing: State, remedy: str) -> Finding:
    """Whether a requirement is met; one that is there in another version fails in any case."""
    bounds = str(requirement.specifier)
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding(_SECTION, requirement.name, missing, "missing", remedy)
    if requirement.specifier.contains(version, prereleases=True):
        return Finding(_SECTION, requirement.name, "ok", f"{version} ({bounds})")
    return Finding(_SECTION, requirement.name, "failed", f"{version}, not {bounds}", remedy)


def _applies(requirement: Requirement, extra: str = "") -> bool:
    """Whether it is for this Python and system, with this extra or without any."""
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _bare(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"
