"""`sigma-monitor wandb-workspace`: panels of what runs log, as W&B's own library has them."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import wandb
import wandb_workspaces.reports.v2 as wr
from lightning.pytorch.loggers import WandbLogger
from wandb.automations import ProjectScope

from sigma_monitor import cli, dashboard
from sigma_monitor.errors import InputError
from sigma_monitor.sinks import WandbSink
from tests.integrations import lightning_hosts
from tests.integrations.conftest import offline_wandb
from tests.integrations.hosts import Flatten, eager, make_trainer
from tests.integrations.models import Letters
from tests.integrations.wandb_file import WandbFile
from tests.wandb_backend import online_wandb

SECTIONS = ["Status", "Log det", "Spectrum", "Layers", "Generation", "Cost"]
WATCHED = {  # all that the panels show
    "every": 1,
    "max_overhead": None,
    "baseline": "start",
    "channels": ("representation", "generation"),
    "generation": {"every": 7, "examples": 8, "prompt_tokens": 4, "new_tokens": 8},
    "tokenizer": Letters(),
}


def referred(workspace: Any) -> set[str]:
    """Every metric, axis and picture that a workspace refers to."""
    names = set()
    for section in workspace.sections:
        for panel in section.panels:
            if isinstance(panel, wr.MediaBrowser):
                names |= set(panel.media_keys)
                continue
            names |= {panel.x, *panel.y}
            for line in panel.custom_expressions or ():
                names |= set(re.findall(r"\$\{(.*?)\}", line))
    return names


def logged(folder: Path) -> set[str]:
    """Names in the history of the run, with those of histograms and pictures."""
    names = {name for row in WandbFile.of_only_run(folder).history for name in row}
    return names | {name.removesuffix("/_type") for name in names if name.endswith("/_type")}


def test_a_trainer_logs_everything_that_its_panels_refer_to(tmp_path: Path) -> None:
    layers = ["last", "0"]
    with offline_wandb(tmp_path):
        watcher = eager(**WATCHED, layers=["last", 0])
        make_trainer(tmp_path, watcher, Flatten(5), max_steps=14, report_to=["wandb"]).train()
    asked = referred(dashboard.build("me/mine", layers=layers))
    assert "train/sigma/0/effective_rank" in asked
    assert asked - logged(tmp_path) == set()


def test_lightning_logs_everything_that_its_panels_refer_to(tmp_path: Path) -> None:
    with offline_wandb(tmp_path):
        trainer = lightning_hosts.make_trainer(
            tmp_path,
            lightning_hosts.eager(**WATCHED, output_dir=tmp_path),
            lightning_hosts.From(5, lightning_hosts.flatten),
            logger=WandbLogger(project="p", save_dir=tmp_path),
            max_steps=14,
        )
        lightning_hosts.fit(trainer)
    assert referred(dashboard.build("me/mine", host="lightning")) - logged(tmp_path) == set()


def test_a_loop_logs_everything_that_its_panels_refer_to(tmp_path: Path) -> None:
    with offline_wandb(tmp_path):
        wandb.init(project="p")
        sinks = ["default", WandbSink(metrics=True, name="mine")]
        watcher = eager(**WATCHED, name="mine", sinks=sinks)
        make_trainer(tmp_path, watcher, Flatten(5), max_steps=14).train()
    workspace = dashboard.build("me/mine", host="plain", monitor="mine")
    assert referred(workspace) - logged(tmp_path) == set()


@pytest.mark.parametrize("host", list(dashboard.HOSTS))
def test_the_library_takes_it_with_an_axis_for_every_panel(host: str) -> None:
    workspace = dashboard.build("me/mine", name="Collapse", host=host)
    sent = json.loads(workspace._to_model().spec.model_dump_json(by_alias=True))
    sections = sent["section"]["panelBankConfig"]["sections"]
    assert [section["name"] for section in sections] == SECTIONS
    axis = dashboard.HOSTS[host].axis or "sigma/step"
    lines = [p for s in sections for p in s["panels"] if p["viewType"] == "Run History Line Plot"]
    assert len(lines) >= 15
    assert {panel["config"]["xAxis"] for panel in lines} == {axis}


def test_the_ratio_has_the_thresholds_beside_it() -> None:
    (ratio, *_) = dashboard.build("me/mine").sections[0].panels
    lines = [line.split(" * 0 + ") for line in ratio.custom_expressions]
    assert [float(level) for _, level in lines] == [0.8, 0.5]


def test_names_of_layers_are_those_of_the_metrics() -> None:
    shown = referred(dashboard.build("me/mine", layers=["model.layers.3"]))
    assert "train/sigma/model_layers_3/ratio" in shown
    assert not any("." in name for name in shown)


@pytest.mark.parametrize("target", ["mine", "/mine", "me/", "me/mine/more", ""])
def test_a_target_that_is_none_is_bad_input(
    target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["wandb-workspace", target, "--dry-run"]) == 2
    assert "ENTITY/PROJECT" in capsys.readouterr().err


def test_a_name_that_wandb_does_not_take_is_bad_input() -> None:
    with pytest.raises(InputError, match="name="):
        dashboard.build("me/mine", name="\N{FIRE}")


def test_a_dry_run_prints_it_and_asks_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with online_wandb(tmp_path) as backend:
        assert cli.main(["wandb-workspace", "me/mine", "--dry-run", "--name", "Collapse"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["entity"], shown["project"], shown["name"]) == ("me", "mine", "Collapse")
    assert [section["name"] for section in shown["sections"]] == SECTIONS
    assert backend.operations == {}


def test_it_is_saved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["wandb-workspace", "me/mine", "--host", "lightning"]
    with online_wandb(tmp_path) as backend:
        assert cli.main(command) == 0
        address = capsys.readouterr().out.strip()
        assert cli.main([*command, "--json"]) == 0
    assert address.startswith(f"{backend.url}/me/mine?nw=")
    shown = json.loads(capsys.readouterr().out)
    assert shown["url"].startswith(f"{backend.url}/me/mine?nw=")
    first, _ = backend.views
    assert (first["entityName"], first["projectName"]) == ("me", "mine")
    assert "trainer/global_step" in first["spec"]


def test_no_key_is_bad_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with online_wandb(tmp_path) as backend:
        monkeypatch.delenv("WANDB_API_KEY")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        assert cli.main(["wandb-workspace", "me/mine"]) == 2
    assert "--dry-run" in capsys.readouterr().err
    assert backend.views == []


def test_what_goes_wrong_within_is_an_internal_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(workspace: object) -> str:
        raise RuntimeError("no such view")

    monkeypatch.setattr("sigma_monitor.dashboard.save", broken)
    assert cli.main(["wandb-workspace", "me/mine"]) == 70
    assert "no such view" in capsys.readouterr().err


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "wandb_workspaces.workspaces", None)
    assert cli.main(["wandb-workspace", "me/mine", "--dry-run"]) == 2
    assert 'pip install "sigma-monitor[workspaces]"' in capsys.readouterr().err


def test_the_automation_of_the_documentation_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[1] / "docs" / "alerts.md").read_text()
    (recipe,) = [code for code in re.findall(r"```python\n(.*?)```", page, re.S) if "wandb" in code]
    api = MagicMock()
    api.project.return_value = ProjectScope(id="UHJvamVjdDo=", name="my-project")
    api.slack_integrations.return_value = iter([SimpleNamespace(id="U2xhY2s6")])
    monkeypatch.setattr(wandb, "Api", lambda: api)
    exec(recipe, {})
    (automation,) = api.create_automation.call_args.args
    assert "train/sigma/status" in repr(automation.event.filter)
    assert automation.action.severity == "ERROR"
