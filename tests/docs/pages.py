"""What each page takes for granted: the reader's own model, data and runs, small enough for a test.

A page is a context manager: it gives the names that its blocks use, in a folder that is the current
one, and looks afterwards at what they have done.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias
from unittest import mock

import torch
import torch.distributed as dist
from sentence_transformers import SentenceTransformerTrainingArguments
from sentence_transformers.losses import MultipleNegativesRankingLoss
from wandb.automations import ProjectScope, SlackIntegration

from sigma_monitor import SigmaCallback, SigmaMonitor, spectral_summary
from sigma_monitor.detection import (
    PRESETS,
    Thresholds,
)
from sigma_monitor.sinks import read_record
from tests.docs.belongings import (
    SHORT,
    a_history,
    a_loop,
    a_run,
    a_trainer,
    for_lightning,
    some_embeddings,
    some_generations,
)
from tests.docs.commands import ROOT
from tests.docs.reader import Reader
from tests.docs.said import on_its_way, runaway, sent_to_wandb
from tests.integrations.models import tiny_llama
from tests.integrations.sentence_hosts import pairs, sentence_model
from tests.integrations.trl_hosts import examples, sentences, variety, words_tokenizer, writer_llama

__all__ = ["PAGES", "Page", "no_names"]

Page: TypeAlias = Callable[[Path], AbstractContextManager[Reader]]

RECORD = Path("sigma/record.jsonl")


@contextmanager
def no_names(folder: Path) -> Iterator[Reader]:
    """A page whose blocks bring all that they use."""
    yield Reader({})


@contextmanager
def index(folder: Path) -> Iterator[Reader]:
    reader = Reader({"model": tiny_llama(), **a_trainer("out")})
    yield reader
    reader.namespace["trainer"].train()
    assert_checked("out")


@contextmanager
def quickstart(folder: Path) -> Iterator[Reader]:
    some_embeddings()
    embedder = sentence_model(folder / "embedder")
    reader = Reader(
        {
            **a_loop(),
            **a_trainer("out"),
            **for_lightning(),
            "settings": {**SHORT, "bf16": False},
            "texts": examples("sft", 16),
            "embedder": embedder,
            "embedder_args": SentenceTransformerTrainingArguments("runs/embedder", **SHORT),
            "pairs": pairs(16, 0),
            "test_pairs": pairs(8, 1),
            "loss": MultipleNegativesRankingLoss(embedder),
        }
    )
    yield reader
    assert_checked(
        "out", "lightning_logs/version_0", "runs/a", "runs/b", "runs/sft", "runs/embedder"
    )


@contextmanager
def reading(folder: Path) -> Iterator[Reader]:
    a_run(Path("runs/a"))
    yield Reader({}, [runaway()])


@contextmanager
def report(folder: Path) -> Iterator[Reader]:
    a_run(Path("runs/a"))
    a_run(Path("runs/b"))
    reader = Reader({})
    yield reader
    assert "near its baseline" in reader.namespace["report"].data["verdict"]["headline"]


@contextmanager
def probes(folder: Path) -> Iterator[Reader]:
    monitor = SigmaMonitor(output_dir="runs/observed")
    reader = Reader(
        {
            "texts": sentences(300),
            "tokenizer": words_tokenizer(),
            "monitor": monitor,
            "quantised": torch.randn(64, 8, generator=torch.Generator().manual_seed(0)),
            "step": 1,
        }
    )
    yield reader
    assert len(reader.namespace["probes"]) == 256
    assert [observation.name for observation in monitor.observed] == ["codebook"]
    monitor.close()


@contextmanager
def lineages(folder: Path) -> Iterator[Reader]:
    texts = [sentences(20), sentences(20)]
    reader = Reader({"pipeline": [(texts[0], texts[1])]}, exits={"chain": 1}, exact=True)
    yield reader
    assert len(reader.namespace["lineage"].verdicts()) == 1


@contextmanager
def tuning(folder: Path) -> Iterator[Reader]:
    a_run(Path("runs/a"))
    a_history(Path("history.csv"))
    yield Reader({"SigmaCallback": SigmaCallback, "my_embeddings": lambda model, batch: None})
    assert_presets(ROOT / "docs" / "tuning.md")


def assert_presets(page: Path) -> None:
    """The table of thresholds is that of the presets."""
    written = {False: "off", True: "on"}
    rows = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if "|" in line]
    table = {row[0].split("`")[1]: row[1:] for row in rows if len(row) == 4 and "`" in row[0]}
    assert set(table) == set().union(*PRESETS.values()) - {"trend"} | {"trend_target"}
    for name, cells in table.items():
        for preset, cell in zip(PRESETS, cells, strict=True):
            rule = Thresholds.of(preset)
            is_off = name.endswith(("_trend", "trend_target")) and not rule.trend
            value = "off" if is_off else getattr(rule, name)
            shown = written.get(value, value) if isinstance(value, bool) else value
            assert cell == shown or float(cell) == shown, f"{name} of {preset} is {shown}"


def assert_checked(*folders: str) -> None:
    """Each of these runs was watched, and nothing failed."""
    for folder in folders:
        record = read_record(Path(folder) / RECORD)
        assert record.snapshots, folder
        assert [e for e in record.events if e["event"] == "failed"] == [], folder


@contextmanager
def hosts(folder: Path) -> Iterator[Reader]:
    """LLaMA-Factory and axolotl are not installed: what they would call is."""
    given: dict[str, Any] = {}
    tuner = ModuleType("llamafactory.train.tuner")
    tuner.run_exp = lambda args, callbacks: given.update(args, callbacks=callbacks)  # type: ignore[attr-defined]
    stand_ins = {name: ModuleType(name) for name in ("llamafactory", "llamafactory.train")}

    def configured(settings: dict[str, Any]) -> None:
        for path in settings["plugins"]:
            module, name = path.rsplit(".", 1)
            assert hasattr(importlib.import_module(module), name)
        given["axolotl"] = SigmaCallback(**settings["sigma_monitor"])

    reader = Reader(
        {
            "model": writer_llama(),
            "my_reward": variety,
            "args": grpo_arguments("out"),
            "prompts": examples("grpo", 16),
            "tokenizer": words_tokenizer(),
            "configured": configured,
        }
    )
    with mock.patch.dict(sys.modules, {**stand_ins, tuner.__name__: tuner}):
        yield reader
    reader.namespace["trainer"].train()
    assert_checked("out")
    assert isinstance(given["callbacks"][0], SigmaCallback)
    assert given["axolotl"].monitor.stop_on_collapse


def grpo_arguments(folder: str) -> Any:
    from trl import GRPOConfig

    return GRPOConfig(folder, **SHORT, num_generations=4, max_completion_length=8, bf16=False)


@contextmanager
def alerts(folder: Path) -> Iterator[Reader]:
    """No server of W&B is there; what is sent to it is what wandb would send."""
    created: list[Any] = []
    api = mock.Mock()
    api.project.return_value = ProjectScope(id="UHJvamVjdA==", name="my-project")
    slack = SlackIntegration(id="U2xhY2s=", team_name="my-team", channel_name="alerts")
    api.slack_integrations.return_value = iter([slack])
    api.create_automation.side_effect = lambda automation, name: created.append((automation, name))
    names = {"SigmaCallback": SigmaCallback, "my_function": print}
    with mock.patch("wandb.Api", return_value=api):
        yield Reader(names, [on_its_way(), sent_to_wandb()])
    ((automation, name),) = created
    assert name == "sigma-collapsed"
    assert "train/sigma/status" in automation.event.filter.model_dump_json()


@contextmanager
def readme(folder: Path) -> Iterator[Reader]:
    for run in ("runs/0", "runs/plain"):
        a_run(Path(run))
    a_history(Path("history.csv"))
    some_embeddings()
    some_generations()
    names = {"model": tiny_llama(), **a_trainer("out")}
    reader = Reader(names, [runaway()], exits={"chain": 1})
    yield reader
    reader.namespace["trainer"].train()
    assert_checked("out")


@contextmanager
def spectra(folder: Path) -> Iterator[Reader]:
    some_embeddings()
    rows = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    names = {
        "embeddings": rows,
        "before": spectral_summary(rows),
        "after": spectral_summary(rows * 0.9),
        "observed": torch.nn.functional.normalize(rows, dim=1),
        "layers": [rows, rows * 0.9],
        "rows_of_this_rank": rows,
        "eigenvalues": torch.linalg.eigvalsh(rows.T @ rows / len(rows)).numpy(),
        "n": len(rows),
        "m": 8,
        "ridge": 1e-3,
        "squared_norms": rows.square().sum(1).numpy(),
    }
    with one_rank(folder):
        yield Reader(names)


@contextmanager
def one_rank(folder: Path) -> Iterator[None]:
    """A process group of this process alone."""
    store = dist.FileStore(str(folder / "store"), 1)
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


PAGES: dict[str, Page] = {
    "README.md": readme,
    "docs/hosts.md": hosts,
    "docs/alerts.md": alerts,
    "docs/index.md": index,
    "docs/quickstart.md": quickstart,
    "docs/reading.md": reading,
    "docs/report.md": report,
    "docs/probes.md": probes,
    "docs/lineages.md": lineages,
    "docs/tuning.md": tuning,
    "docs/spectra.md": spectra,
}
