"""A monitored loop on several ranks that counts its collectives, for `test_collectives`.

Without transformers, which would cost every process seconds.
"""

from __future__ import annotations

import functools
import json

import torch.distributed as dist
from torch.distributed import distributed_c10d

from sigma_monitor import SigmaMonitor
from tests.probing.split_ranks import SmallCausalLM, last_rank, probes_of

COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "gather",
    "gather_object",
    "monitored_barrier",
    "reduce",
    "reduce_scatter",
    "scatter",
    "scatter_object_list",
)
RAISES_AT, NAN_AT, ONSET, SAVED, STEPS = 4, 6, 8, 10, 40


class Calls:
    """Names of the collectives that this process has called, and after which step."""

    def __init__(self):
        self.made, self.place = [], "start"
        for name in COLLECTIVES:
            counted = self._counted(name, getattr(distributed_c10d, name))
            setattr(distributed_c10d, name, counted)
            setattr(dist, name, counted)

    def _counted(self, name, call):
        @functools.wraps(call)
        def counted(*args, **kwargs):
            self.made.append(f"{self.place}: {name}")
            return call(*args, **kwargs)

        return counted


def monitor_for(folder):
    return SigmaMonitor(
        probes_of(64),
        every=2,
        max_overhead=None,
        max_steps=STEPS,
        baseline="start",
        stop_on_collapse=True,
        output_dir=folder / "run",
    )


def train(folder, calls):
    """What happens to the monitor, and when."""
    now = {"step": 0}

    def fault(rank, hidden):
        if rank == last_rank() and now["step"] == RAISES_AT:
            raise RuntimeError("cannot embed this time")
        if rank == last_rank() and now["step"] == NAN_AT:
            return hidden * float("nan")
        return hidden

    model, monitor = SmallCausalLM(fault), monitor_for(folder)
    monitor.step(model, 0)
    for step in range(1, STEPS + 1):
        now["step"] = step
        calls.place = f"step {step}"
        if step == ONSET:
            model.base_model[1].weight.data[1:] = 0.0  # one direction is left
            model.base_model[1].bias.data[1:] = 0.0
        monitor.step(model, step)
        monitor.observe("table", model.base_model[0].weight, step)
        if step == SAVED:
            saved = monitor.state_dict()
            monitor.close()
            monitor = monitor_for(folder)
            monitor.load_state_dict(saved)
        if monitor.should_stop:
            break
    calls.place = "close"
    monitor.close()
    return {"stopped": step, "reason": monitor.stop_reason, "failures": monitor.failures}


def work(rank, world, folder):
    calls = Calls()
    report = train(folder, calls)
    (folder / f"rank{rank}.json").write_text(json.dumps(report | {"calls": calls.made}))
