"""The files by which GitHub tests, releases, and asks for what an issue needs."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
each_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps_of(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_the_workflows_are_there():
    assert {path.stem for path in WORKFLOWS} == {"ci", "hosts", "long", "release"}


@each_workflow
def test_a_workflow_may_do_no_more_than_read(path):
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    more = {
        name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job
    }
    assert more == ({"publish": {"id-token": "write"}} if path.stem == "release" else {})


@each_workflow
def test_every_job_has_an_end_and_every_action_a_version(path):
    workflow = load(path)
    assert all(job["timeout-minutes"] > 0 for job in workflow["jobs"].values())
    actions = [step["uses"] for step in steps_of(workflow) if "uses" in step]
    assert actions != []
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@[\w./-]+", action) for action in actions)


@each_workflow
def test_what_a_workflow_runs_exists(path):
    workflow = load(path)
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    noxfile = (ROOT / "noxfile.py").read_text()
    sessions = re.findall(r"@nox\.session\n(?:@.*\n)*def (\w+)", noxfile)
    matrix = [
        name
        for job in workflow["jobs"].values()
        for name in job.get("strategy", {}).get("matrix", {}).get("session", [])
    ]
    commands = [step["run"] for step in steps_of(workflow) if "run" in step]
    for command in commands:
        if command.startswith("make "):
            assert command.split()[1] in targets
        elif command.startswith("nox "):
            name = command.partition("-s ")[2].strip('"')
            assert matrix if "matrix.session" in name else name in sessions
        else:
            others = ("pip install nox", "test -f ", "chromium --version", "npm ci ")
            assert command.startswith(others), command
    for name in matrix:
        session, _, version = name.partition("(transformers=")
        assert session in sessions
        assert not version or f'"{version.strip(")")[1:-1]}": (' in noxfile


def test_the_tests_run_on_every_python_that_the_metadata_names():
    versions = load(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["strategy"]["matrix"][
        "python"
    ]
    assert versions == ["3.10", "3.11", "3.12", "3.13"]
    assert metadata.metadata("sigma-monitor")["Requires-Python"] == f">={versions[0]}"


def test_long_tests_and_those_in_a_browser_are_run_by_a_workflow():
    steps = load(ROOT / ".github/workflows/ci.yml")["jobs"]["test"]["steps"]
    (npm,) = [step for step in steps if step.get("run", "").startswith("npm ci")]
    assert (ROOT / npm["working-directory"] / "package-lock.json").exists()
    assert [step["run"] for step in steps if "run" in step][-1] == "make test"
    long = load(ROOT / ".github/workflows/long.yml")
    assert set(long[True]) == {"schedule", "workflow_dispatch"}
    assert long["jobs"]["long"]["steps"][-1]["run"] == 'make test PYTEST_ARGS="-m long"'
    assert "$(PYTEST_ARGS)" in (ROOT / "Makefile").read_text()


def test_a_release_is_made_of_a_tag_alone():
    assert load(ROOT / ".github/workflows/release.yml")[True] == {"push": {"tags": ["v*"]}}


FORM_FIELDS = {
    "markdown": {"value"},
    "textarea": {"label", "description", "render", "placeholder", "value"},
    "input": {"label", "description", "placeholder", "value"},
    "dropdown": {"label", "description", "options", "multiple"},
}


@pytest.mark.parametrize(
    "path", [p for p in FORMS if p.stem != "config"], ids=lambda path: path.stem
)
def test_an_issue_form_is_one_that_github_takes(path):
    form = load(path)
    assert set(form) == {"name", "description", "labels", "body"}
    for element in form["body"]:
        assert set(element["attributes"]) <= FORM_FIELDS[element["type"]]
        if element["type"] == "markdown":
            assert set(element) == {"type", "attributes"}
        else:
            assert set(element) <= {"type", "id", "attributes", "validations"}
            assert element["attributes"]["label"]
        if element["type"] == "dropdown":
            options = element["attributes"]["options"]
            assert all(isinstance(option, str) for option in options)
            assert len(set(options)) == len(options)
    ids = [element["id"] for element in form["body"] if "id" in element]
    assert len(set(ids)) == len(ids) > 0
    assert all(re.fullmatch(r"[\w-]+", name) for name in ids)


def test_a_false_alarm_comes_with_its_record():
    body = load(ROOT / ".github/ISSUE_TEMPLATE/false_alarm.yml")["body"]
    record = next(element for element in body if element.get("id") == "record")
    assert record["validations"] == {"required": True}
    assert "sigma/record.jsonl" in record["attributes"]["description"]
