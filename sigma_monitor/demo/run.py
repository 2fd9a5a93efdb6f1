"""The demo from the text to the table."""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from sigma_monitor.demo.arms import ARMS, Arm, pretrained, train_arm
from sigma_monitor.demo.corpus import Corpus, load_corpus, read_text
from sigma_monitor.demo.picture import Curves, draw
from sigma_monitor.errors import InputError
from sigma_monitor.estimate import jsonable
from sigma_monitor.monitor import RECORD
from sigma_monitor.sinks import Record, read_record

__all__ = ["ArmResult", "DemoResult", "run_demo"]

_THREADS = 1  # the models are too small for two to be faster
_LEAST_STEPS = 60


@dataclass(frozen=True)
class ArmResult:
    """How one arm went."""

    arm: Arm
    record: Record
    worst: str  # status that it reached
    steps: int
    stopped: bool
    losses: list[tuple[int, float]]  # step and training loss of every log

    @property
    def alert(self) -> dict[str, Any] | None:
        """The first alert of severity warn or error."""
        return next((a for a in self.record.alerts if a["severity"] != "info"), None)

    @property
    def as_expected(self) -> bool:
        """The expected status, and the stop that was asked for."""
        return self.worst == self.arm.expected and self.stopped == self.arm.stop

    def row(self) -> dict[str, Any]:
        """One line of the table."""
        alert = self.alert
        step = None if alert is None else alert["step"]
        at = [s for s in self.record.snapshots if step is None or s.step == step]
        return {
            "arm": self.arm.name,
            "worst": self.worst,
            "expected": self.arm.expected,
            "stopped_at": self.steps if self.stopped else None,
            "alert_channel": None if alert is None else alert["channel"],
            "alert_check": None if alert is None else alert["check"],
            "alert_step": step,
            "held_out_loss": at[-1].loss if at else None,
            "own_loss_at_end": self.losses[-1][1],
            "overhead": self.record.snapshots[-1].overhead,
        }


@dataclass(frozen=True)
class DemoResult:
    """All arms, and where the picture lies."""

    arms: tuple[ArmResult, ...]
    picture: Path
    seconds: float

    @property
    def as_expected(self) -> bool:
        """Every arm reached the status it should have."""
        return all(result.as_expected for result in self.arms)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins; infinities and NaN become strings."""
        rows = (result.row() for result in self.arms)
        return {
            "arms": [
                {key: jsonable(of) if isinstance(of, float) else of for key, of in row.items()}
                for row in rows
            ],
            "as_expected": self.as_expected,
            "picture": str(self.picture),
            "seconds": self.seconds,
        }

    def table(self) -> str:
        """The table and the path of the picture."""
        head = (
            f"{'arm':<29}{'worst':<11}{'first alert':<38}{'held-out loss':<15}"
            f"{'own loss':<10}{'overhead':<10}stopped"
        )
        lines = [head, "-" * len(head)]
        for row in (result.row() for result in self.arms):
            alert = (
                "none"
                if row["alert_step"] is None
                else f"{row['alert_channel']}, check {row['alert_check']}, step {row['alert_step']}"
            )
            where = " (end)" if row["alert_step"] is None else " (there)"
            stopped = "no" if row["stopped_at"] is None else f"at step {row['stopped_at']}"
            loss = "-" if row["held_out_loss"] is None else f"{row['held_out_loss']:.2f}{where}"
            lines.append(
                f"{row['arm']:<29}{row['worst']:<11}{alert:<38}{loss:<15}"
                f"{row['own_loss_at_end']:<10.2g}{row['overhead']:<10.0%}{stopped}"
            )
        outcome = "as expected" if self.as_expected else "NOT as expected"
        lines.append("")
        lines.append(f"Verdicts {outcome}, after {self.seconds:.0f} s.")
        lines.append("Checks came far more often than the default budget of 1 % of time allows.")
        lines.append(f"Curves with bands and alerts: {self.picture}")
        return "\n".join(lines)


def run_demo(
    *,
    text: Path | None = None,
    model: Path | None = None,
    out: Path = Path("sigma-demo"),
    picture: Path | None = None,
    steps: int = 240,
    seed: int = 0,
) -> DemoResult:
    """Train the arms one after the other from a common start.

    Args:
        text: UTF-8 file to train on; None: the language reference that comes with Python.
        model: Folder of a pretrained causal language model; None trains a small one first.
        out: Output folder; records of an earlier demo there are replaced.
        picture: Where to draw the curves; None: `collapse.png` in `out`.
        steps: Training steps of each arm.
        seed: Of weights, data order and probe choice.

    Raises:
        InputError: When text or model cannot be used, or `steps` is too small to show anything.
    """
    if steps < _LEAST_STEPS:
        raise InputError(f"--steps {steps}: pass at least {_LEAST_STEPS}.")
    started = time.perf_counter()
    torch.set_num_threads(_THREADS)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    corpus, start = _common_start(text, model, out, seed)
    results = tuple(_run(arm, start, corpus, out, steps, seed) for arm in ARMS)
    columns = [Curves(r.arm.name, r.record, r.losses) for r in results]
    drawn = draw(columns, picture or out / "collapse.png")
    return DemoResult(results, drawn, time.perf_counter() - started)


def _common_start(
    text: Path | None, model: Path | None, out: Path, seed: int
) -> tuple[Corpus, PreTrainedModel]:
    passage = read_text(text)
    if model is None:
        corpus = load_corpus(passage)
        _say("First a small Llama is trained from scratch, on its own text only.")
        return corpus, pretrained(corpus, out, seed)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model, local_files_only=True)
        start = AutoModelForCausalLM.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(f"--model {model}: {error}") from error
    return load_corpus(passage, tokenizer), start


def _run(
    arm: Arm, start: PreTrainedModel, corpus: Corpus, out: Path, steps: int, seed: int
) -> ArmResult:
    _say(f"\n{arm.name}: {arm.story}")
    folder = out / arm.name.replace(" ", "-")
    shutil.rmtree(folder / RECORD.parent, ignore_errors=True)
    watch, losses = train_arm(arm, start, corpus, folder, steps=steps, seed=seed)
    record = read_record(folder / RECORD)
    last = record.snapshots[-1]
    worst = max(snapshot.status for snapshot in record.snapshots)
    stopped = watch.monitor.stop_reason is not None
    return ArmResult(arm, record, worst.name, last.step, stopped, losses)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
