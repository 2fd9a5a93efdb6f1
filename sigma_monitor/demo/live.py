"""A progress bar that says how the spectrum is doing."""

from __future__ import annotations

from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback

from sigma_monitor.integrations.transformers import SigmaCallback
from sigma_monitor.snapshot import WATCHED, Snapshot

__all__ = ["LiveLine"]


class LiveLine(TrainerCallback):
    """One bar for one training; beside it loss, effective rank, ratio to baseline and status."""

    def __init__(self, name: str, watch: SigmaCallback | None = None) -> None:
        self.name = name
        self.watch = watch
        self._bar: Any = None
        self._loss = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Open the bar."""
        self._bar = tqdm(total=state.max_steps, desc=self.name, unit="step", mininterval=0.5)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Move on, and show the latest check."""
        snapshot = None if self.watch is None else self.watch.monitor.last_snapshot
        self._bar.set_postfix_str(self._loss + _line(snapshot), refresh=False)
        self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Keep the latest training loss."""
        if "loss" in logs:
            self._loss = f"loss {logs['loss']:.3g}"

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Leave the finished bar on the screen."""
        self._bar.close()


def _line(snapshot: Snapshot | None) -> str:
    if snapshot is None:
        return ""
    parts = []
    for layer, estimates in snapshot.layers.items():
        if WATCHED in estimates:
            parts.append(f", effective rank {estimates[WATCHED].value:.1f}")
        if layer in snapshot.ratios:
            parts.append(f" ({snapshot.ratios[layer]:.0%} of baseline)")
    return f"{''.join(parts)}, {snapshot.status.name}"
