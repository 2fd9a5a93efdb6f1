"""Versions against the bounds of the metadata."""

from __future__ import annotations

import email
from importlib import metadata

import pytest

from sigma_monitor.doctor.packages import DISTRIBUTION, examine_packages

METADATA = """\
Metadata-Version: 2.4
Name: sigma-monitor
Version: 1.0
Requires-Python: >=3.10
Requires-Dist: torch>=2.4
Requires-Dist: wandb>=0.19
Requires-Dist: tomli>=2; python_version < "3"
Provides-Extra: trl
Requires-Dist: trl>=1.14; extra == "trl"
Provides-Extra: dev
Requires-Dist: pytest>=8; extra == "dev"
"""


@pytest.fixture
def installed(monkeypatch):
    """Say what is installed: versions by name, and the Python."""

    def say(python="3.11.7", text=METADATA, **versions):
        def version(name):
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(metadata, "metadata", lambda name: email.message_from_string(text))
        monkeypatch.setattr(metadata, "version", version)
        monkeypatch.setattr("platform.python_version", lambda: python)
        return {f.name: (f.state, f.text, f.remedy) for f in examine_packages()}

    return say


def test_what_fits_is_ok(installed):
    assert installed(torch="2.13.0+cpu", wandb="0.31.0", trl="1.14") == {
        "python": ("ok", "3.11.7 (>=3.10)", None),
        "torch": ("ok", "2.13.0+cpu (>=2.4)", None),
        "wandb": ("ok", "0.31.0 (>=0.19)", None),
        "trl": ("ok", "1.14 (>=1.14)", None),
    }


def test_a_development_version_that_is_new_enough_fits(installed):
    assert installed(torch="2.5.0.dev20240601", wandb="0.31.0")["torch"][0] == "ok"


def test_an_extra_that_is_missing_is_no_failure_and_named(installed):
    remedy = 'For the extra trl: pip install "sigma-monitor[trl]"'
    assert installed(torch="2.4", wandb="0.19")["trl"] == ("note", "missing", remedy)


def test_an_extra_that_is_too_old_fails(installed):
    state, text, remedy = installed(torch="2.4", wandb="0.19", trl="0.9")["trl"]
    assert (state, text) == ("failed", "0.9, not >=1.14")
    assert remedy == 'For the extra trl: pip install "sigma-monitor[trl]"'


def test_what_is_needed_fails_when_missing_or_too_old(installed):
    found = installed(torch="2.3.1+cu118")
    assert found["torch"] == ("failed", "2.3.1+cu118, not >=2.4", 'pip install "torch>=2.4"')
    assert found["wandb"] == ("failed", "missing", 'pip install "wandb>=0.19"')


def test_a_python_that_is_too_old_fails(installed):
    state, text, remedy = installed(python="3.9.1", torch="2.4", wandb="0.19")["python"]
    assert (state, text) == ("failed", "3.9.1, not >=3.10")
    assert remedy is not None


def test_a_package_that_is_not_installed_says_so(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", missing)
    (finding,) = examine_packages()
    assert (finding.name, finding.state) == (DISTRIBUTION, "failed")
    assert "pip install" in finding.remedy


def test_what_the_tests_run_in_is_as_the_metadata_asks():
    findings = examine_packages()
    assert [f for f in findings if f.state == "failed"] == []
    names = {f.name for f in findings}
    assert {"python", "torch", "transformers", "accelerate", "scipy", "wandb"} <= names
    assert {"lightning", "trl"} <= names
    assert "pytest" not in names
