"""What is released: version, wheel and sdist, and how to cite it."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

import sigma_monitor

ROOT = Path(__file__).parents[1]


def built(folder, *options):
    """The file that `python -m build` makes of this tree."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), *options]
    done = subprocess.run([*command, str(ROOT)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    (artifact,) = folder.iterdir()
    return artifact


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built(tmp_path_factory.mktemp("wheel"), "--wheel")


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return built(tmp_path_factory.mktemp("sdist"), "--sdist")


def version_of(artifact):
    name = artifact.name.removesuffix(".tar.gz").removesuffix("-py3-none-any.whl")
    return name.removeprefix("sigma_monitor-")


def tracked(*folders):
    """Files below folders of this tree that belong to it, and not to what was run or installed."""
    if not (ROOT / ".git").exists():
        pytest.skip("git knows what belongs to this tree, and it is no checkout")
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others"]
    command += ["--exclude-standard", "--", *folders]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return {name for name in done.stdout.split("\0") if (ROOT / name).is_file()}


def test_the_version_is_the_installed_one():
    assert sigma_monitor.__version__ == metadata.version("sigma-monitor")
    Version(sigma_monitor.__version__)


def test_a_package_that_is_not_installed_has_no_version(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert sigma_monitor._version() == "0+unknown"


def test_the_wheel_is_the_package_and_its_metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = archive.read(f"sigma_monitor-{version_of(wheel)}.dist-info/entry_points.txt")
    about = f"sigma_monitor-{version_of(wheel)}.dist-info"
    assert {name for name in names if not name.startswith(f"{about}/")} == tracked("sigma_monitor")
    assert names >= {f"{about}/METADATA", f"{about}/licenses/LICENSE"}
    assert "sigma_monitor/py.typed" in names
    assert b"sigma-monitor = sigma_monitor.cli:main" in entry_points


def test_the_sdist_has_what_a_developer_needs_and_no_environment(sdist):
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= tracked("sigma_monitor", "tests", "examples")
    wanted = "CHANGELOG.md CITATION.cff CONTRIBUTING.md LICENSE Makefile README.md SECURITY.md "
    wanted += "constraints.txt noxfile.py pyproject.toml"
    assert names >= set(wanted.split())
    assert [name for name in names if name.startswith((".venv", ".git/"))] == []
    assert [name for name in names if "node_modules" in name] == []  # of `npm ci`


def git(folder, *arguments):
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.com"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, timeout=60)


@pytest.fixture
def tree(tmp_path):
    """A repository of one commit that holds as much as a version needs."""
    folder = tmp_path / "tree"
    (folder / "sigma_monitor").mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE", "sigma_monitor/__init__.py"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    git(folder, "init", "--quiet")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message", "one")
    return folder


def hatch_version(folder):
    command = [sys.executable, "-m", "hatchling", "version"]
    # Whatever the machine of these tests sets for its own builds must not answer here.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SETUPTOOLS_SCM")}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return Version(done.stdout.strip())


def test_a_tag_is_the_version_and_later_commits_are_before_the_next(tree):
    git(tree, "tag", "v1.2.3")
    assert hatch_version(tree) == Version("1.2.3")
    git(tree, "commit", "--quiet", "--allow-empty", "--message", "two")
    later = hatch_version(tree)
    assert Version("1.2.3") < later < Version("1.2.4")
    assert later.is_devrelease


def test_a_clone_without_tags_and_a_folder_without_git_have_one_too(tree):
    git(tree, "clone", "--quiet", "--depth", "1", tree.as_uri(), str(tree / "shallow"))
    assert hatch_version(tree / "shallow").is_devrelease
    git(tree, "archive", "--output", str(tree / "plain.tar"), "HEAD")
    plain = tree.parent / "plain"
    with tarfile.open(tree / "plain.tar") as archive:
        archive.extractall(plain, filter="data")
    assert hatch_version(plain).is_devrelease


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_what_was_built_installs_and_runs_elsewhere(kind, request, tmp_path):
    """In an environment that has nothing of this tree, and borrows the libraries of this one."""
    artifact = request.getfixturevalue(kind)
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    command = tmp_path / "venv" / "bin" / "sigma-monitor"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(*arguments, timeout=300):
        done = subprocess.run(
            list(map(str, arguments)),
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    where = run(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])")
    borrowed = Path(where.strip()) / "borrowed.pth"
    borrowed.write_text(sysconfig.get_paths()["purelib"] + "\n")
    # Without an index nothing but the artifact can be installed; an sdist is built with what is
    # borrowed.
    install = [python, "-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation"]
    run(*install, "--ignore-installed", artifact)
    assert run(command, "--version").strip() == f"sigma-monitor {version_of(artifact)}"
    code = "import sigma_monitor; print(sigma_monitor.__file__)"
    assert run(python, "-c", code).startswith(str(tmp_path / "venv"))
    assert "all as expected" in run(command, "doctor")
    run(command, "demo", "--json", timeout=1500)


# The fields of version 1.2.0 of the Citation File Format, and those of a reference that are used.
CFF_FIELDS = {
    "abstract",
    "authors",
    "cff-version",
    "commit",
    "contact",
    "date-released",
    "doi",
    "identifiers",
    "keywords",
    "license",
    "license-url",
    "message",
    "preferred-citation",
    "references",
    "repository",
    "repository-artifact",
    "repository-code",
    "title",
    "type",
    "url",
    "version",
}
REFERENCE_FIELDS = {"type", "title", "authors", "year", "identifiers", "url"}
PERSON_FIELDS = {"given-names", "family-names"}


def test_the_citation_file_follows_its_format():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert set(cff) <= CFF_FIELDS
    assert set(cff) >= {"cff-version", "message", "title", "authors"}
    assert (cff["cff-version"], cff["type"]) == ("1.2.0", "software")
    assert cff["license"] == metadata.metadata("sigma-monitor")["License-Expression"]
    assert cff["authors"] == [{"name": "The sigma_monitor authors"}]
    assert len(cff["keywords"]) == len(set(cff["keywords"])) > 0
    for reference in cff["references"]:
        assert set(reference) <= REFERENCE_FIELDS
        assert {"type", "title", "authors"} <= set(reference)
        assert all(set(author) == PERSON_FIELDS for author in reference["authors"])
        for identifier in reference["identifiers"]:
            assert set(identifier) == {"type", "value"}
            assert identifier["type"] in ("doi", "url", "swh", "other")
