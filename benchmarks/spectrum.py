"""How long one spectrum takes and how good it is, beside every other way at hand.

Rows are Gaussian, fp32 and deterministic: column k has the scale k^-0.5, two cosine transforms with
random signs turn the columns so that no coordinate is special, and one common mean direction
carries a fifth of the energy. Collapsed: 64 columns of that scale, the others 1e-4. Functionals
are of the uncentred rows with a relative ridge of 1e-3.

All ways take turns, `--repeats` times (one that took over three minutes only once, over half a
minute three times), on the same rows with another seed each time: seconds are medians, errors the
root mean squares against eigenvalues in fp64. A way is an alternative *at the target* when it
delivers log det, effective rank and λ_max within 1 %, and *at equal accuracy* when its errors of
log det and effective rank are no larger than ours. Results are merged into the file size by
size.

Run: python benchmarks/spectrum.py [--quick] [--sizes 4096x4096 ...] [--device cpu|cuda]
     [--repeats R] [--threads T] [--truth auto|fp64|fp32] [--out FILE]
     python benchmarks/spectrum.py --table

Rivals are found on PYTHONPATH: see docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import scipy.fft
import torch
from environment import RIVALS, environment
from rivals import EXACT, RELATIVE_RIDGE, TARGET, Found, Rival, Slq, eigenvalues, rivals
from torch import Tensor

from sigma_monitor.spectrum import (
    GramStream,
    SpectralSummary,
    spectral_drift,
    spectral_summaries,
    spectral_summary,
    summarize,
)
from sigma_monitor.spectrum.cost import rates
from sigma_monitor.spectrum.operator import RowOperator

SIZES = (
    "1024x768",
    "4096x4096",
    "4096x4096:collapsed",
    "8192x4096",
    "2048x8192",
    "8192x8192",
    "65536x768:streamed",
    "32x1024x4096",
    "16384x16384",
)
QUICK = ("192x128", "64x160:collapsed", "512x80:streamed", "3x80x96")

DECAY, MEAN_ENERGY = 0.5, 0.2
QUICK_SLQ = Slq(runs=2, steps=8, imate_samples=(2, 2), imate_steps=8)

KEPT, FLOOR = 64, 1e-4  # of collapsed rows
CHUNK = 4096  # rows of a stream
CHANGE = 1e-3  # of every entry, relative, from one check to the next

TARGETS = {"log_det": TARGET, "effective_rank": TARGET, "lambda_max": TARGET}
ACCURACY = ("log_det_per_dim", "effective_rank")
NARROW = ("log_det", "spectral_entropy", "lambda_max")  # whose half-widths are to reach the target
ROUNDING = 1e-9  # errors below are equal: two ways in fp64 differ by less
ONCE_ABOVE, THRICE_ABOVE = 180.0, 30.0  # seconds
TRUTH_UP_TO = 600.0  # predicted seconds of eigenvalues in fp64
DRIFT_TRUTH_UP_TO = 180.0

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks.md"


@dataclass(frozen=True)
class Case:
    """What a spectrum is taken of."""

    n: int
    m: int
    layers: int = 1
    kind: str = ""  # "streamed" or "collapsed"

    @classmethod
    def parse(cls, name: str) -> Case:
        found = re.fullmatch(r"(?:(\d+)x)?(\d+)x(\d+)(?::(streamed|collapsed))?", name)
        if found is None:
            raise argparse.ArgumentTypeError(
                f"{name}: a size is n x m such as 4096x4096, with :streamed or :collapsed behind "
                "it, or layers x n x m."
            )
        layers, n, m, kind = found.groups()
        return cls(int(n), int(m), int(layers or 1), kind or "")

    @property
    def name(self) -> str:
        layers = f"{self.layers}x" if self.layers > 1 else ""
        return f"{layers}{self.n}x{self.m}" + (f":{self.kind}" if self.kind else "")

    @property
    def d(self) -> int:
        return min(self.n, self.m)

    @property
    def chunk(self) -> int | None:
        return min(CHUNK, self.n // 2) if self.kind == "streamed" else None

    @property
    def tracked(self) -> bool:
        return self.layers == 1 and self.kind != "streamed"

    @property
    def bytes_needed(self) -> float:
        """At most at once: rows, changed rows, rows in fp64 and the product twice or thrice."""
        rows = 4.0 * self.n * self.m * self.layers
        return 2 * rows + (2 * rows if self.kind != "streamed" else 0) + 3 * 8.0 * self.d**2

    def rows(self, device: torch.device) -> Tensor:
        """(layers, n, m) fp32."""
        rows = torch.empty(self.layers, self.n, self.m)
        decays = np.linspace(DECAY / 2, 3 * DECAY / 2, self.layers) if self.layers > 1 else [DECAY]
        for seed, (layer, decay) in enumerate(zip(rows, decays, strict=True)):
            self._fill(layer, float(decay), torch.Generator().manual_seed(seed))
        return rows.to(device)

    def _fill(self, rows: Tensor, decay: float, generator: torch.Generator) -> None:
        scale = torch.arange(1, self.m + 1, dtype=EXACT) ** -decay
        if self.kind == "collapsed":
            scale[KEPT:] = FLOOR
        mean = torch.randn(self.m, generator=generator)
        energy = float(scale.square().sum()) * MEAN_ENERGY / (1 - MEAN_ENERGY)
        mean *= math.sqrt(energy) / mean.norm()
        signs = torch.randint(2, (2, self.m), generator=generator).mul_(2).sub_(1)
        for part in rows.split(1024):
            torch.randn(part.shape, generator=generator, out=part)
            part *= scale.float()
            for sign in signs:
                turned = scipy.fft.dct((part * sign).numpy(), norm="ortho", overwrite_x=True)
                part.copy_(torch.from_numpy(turned))
            part += mean


@dataclass
class Record:
    """What one way did in all its turns."""

    seconds: list[float] = field(default_factory=list)
    found: list[list[Found]] = field(default_factory=list)  # by turn and layer
    failed: str = ""

    @property
    def done(self) -> bool:
        """Whether it has had all the turns that its time allows."""
        first = self.seconds[0] if self.seconds else 0.0
        turns = 1 if first > ONCE_ABOVE else 3 if first > THRICE_ABOVE else math.inf
        return bool(self.failed) or len(self.seconds) >= turns

    def errors(self, truth: Sequence[Found], m: int) -> dict[str, float]:
        """Root mean square over the turns, of the worst layer of each; of what it delivers."""
        turns = [
            [_errors(found, true, m) for found, true in zip(layers, truth, strict=True)]
            for layers in self.found
        ]
        return {
            name: math.sqrt(np.mean([max(e[name] for e in layers) ** 2 for layers in turns]))
            for name in (turns[0][0] if turns else ())
        }

    def row(self, truth: Sequence[Found], m: int) -> dict[str, Any]:
        if self.failed:
            return {"skipped": self.failed}
        last, errors = self.found[-1], self.errors(truth, m)
        row: dict[str, Any] = {
            "seconds": median(self.seconds),
            "seconds_all": [round(s, 4) for s in self.seconds],
            "timed_once": self.seconds[0] > ONCE_ABOVE,
            "errors": errors,
            "matvecs": int(median(sum(f.matvecs for f in layers) for layers in self.found)),
            "detail": last[0].detail,
        }
        if last[0].half_widths is not None:
            row["half_widths"] = {
                name: max(f.half_widths[name] for f in last if f.half_widths)
                for name in last[0].half_widths
            }
        spread = max(
            (f.rank_spread for layers in self.found for f in layers if f.rank_spread), default=None
        )
        if spread is not None:
            row["extrapolated_seconds_to_target"] = _extrapolated(row, spread, last[0].runs)
        return row


def _errors(found: Found, truth: Found, m: int) -> dict[str, float]:
    errors = {}
    if found.log_det is not None:
        errors["log_det"] = abs(found.log_det / truth.log_det - 1)
        errors["log_det_per_dim"] = abs(found.log_det - truth.log_det) / m
    if found.effective_rank is not None:
        errors["effective_rank"] = abs(found.effective_rank / truth.effective_rank - 1)
    if found.lambda_max is not None:
        errors["lambda_max"] = abs(found.lambda_max / truth.lambda_max - 1)
    return errors


def _extrapolated(row: dict[str, Any], spread: float, runs: int) -> float | None:
    """Until the normal 95 % half-width of the effective rank is 1 %, by the spread of the runs.

    None where the error is no matter of runs.
    """
    if row["errors"]["effective_rank"] > 4 * spread / math.sqrt(runs):
        return None
    wanted = (1.96 * spread / TARGETS["effective_rank"]) ** 2
    return row["seconds"] / runs * max(runs, wanted)


def ours(
    case: Case, method: str, *, sampling: bool = False
) -> Callable[[Tensor, int], list[Found]]:
    """The package, by one method."""

    def work(rows: Tensor, seed: int) -> list[Found]:
        settings: dict[str, Any] = {
            "method": method,
            "relative_ridge": RELATIVE_RIDGE,
            "sampling": sampling,
            "generator": torch.Generator().manual_seed(seed),
        }
        if case.layers > 1:
            return [_found(s) for s in spectral_summaries(rows, **settings)]
        if case.chunk is None:
            return [_found(spectral_summary(rows[0], **settings))]
        stream = GramStream(case.m, device=rows.device)
        for part in rows[0].split(case.chunk):
            stream.update(part)
        return [_found(summarize(stream, center=False, **settings))]

    return work


def _found(summary: SpectralSummary) -> Found:
    def half(name: str, *, relative: bool = True) -> float:
        estimate = getattr(summary, name)
        width = (estimate.high - estimate.low) / 2
        return width / abs(estimate.value) if relative else width

    return Found(
        summary.log_det.value,
        summary.effective_rank.value,
        summary.lambda_max.value,
        matvecs=summary.matvecs,
        half_widths={
            "log_det_per_dim": half("log_det_per_dim", relative=False),
            "log_det": half("log_det"),
            "effective_rank": half("effective_rank"),
            "spectral_entropy": half("spectral_entropy"),
            "lambda_max": half("lambda_max"),
        },
        detail=f"{summary.method}: {summary.reason}",
    )


def ways(case: Case, device: torch.device, slq: Slq) -> list[Rival]:
    """Ours and theirs, in the order of their turns."""
    on_host = device.type == "cpu"
    found = [
        Rival("ours auto", ours(case, "auto")),
        Rival("ours lanczos", ours(case, "lanczos")),
        Rival("ours exact", ours(case, "exact"), up_to=8192 if on_host else math.inf),
    ]
    if case.chunk is None:
        found.append(Rival("ours auto, with sampling", ours(case, "auto", sampling=True)))
    return found + rivals(chunk=case.chunk, layers=case.layers, device=device, slq=slq)


@dataclass(frozen=True)
class Peaks:
    """Of the device, measured in the same run."""

    gemm: float  # flops a second, square products in fp32
    bandwidth: float  # bytes a second, read and written by a copy

    @classmethod
    def measure(cls, device: torch.device, *, quick: bool) -> Peaks:
        size = 512 if quick else (2048 if device.type == "cpu" else 8192)
        square = torch.randn(size, size, device=device)
        source = torch.zeros(2**22 if quick else 2**26, device=device)
        target = torch.empty_like(source)
        product = min(timed(lambda: square @ square, device)[0] for _ in range(6))
        copy = min(timed(lambda: target.copy_(source), device)[0] for _ in range(6))
        return cls(2 * size**3 / product, 8 * source.numel() / copy)


def timed(work: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, result


@contextmanager
def counted_passes() -> Iterator[list[int]]:
    """Products with all rows of all layers, as the package makes them."""
    passes: list[int] = []
    apply = RowOperator.apply

    def counting(self: RowOperator, vectors: Tensor) -> Tensor:
        passes.append(vectors.shape[1])
        return apply(self, vectors)

    with mock.patch.object(RowOperator, "apply", counting):
        yield passes


@dataclass(frozen=True)
class Bench:
    """How sizes are measured."""

    device: torch.device
    repeats: int
    truth: str
    quick: bool

    def measure(self, case: Case) -> dict[str, Any]:
        """One size."""
        memory = available_memory(self.device)
        if case.bytes_needed > memory:
            reason = f"needs {case.bytes_needed / 2**30:.1f} GiB of {memory / 2**30:.1f}"
            return {"skipped": reason}
        peaks = Peaks.measure(self.device, quick=self.quick)
        rows = case.rows(self.device)
        in_fp64 = self.truth == "fp64" or (
            self.truth == "auto" and self._exact_seconds(case) < TRUTH_UP_TO
        )
        contestants = self._prepared(case, in_fp64)
        records = self._turns(rows, contestants)
        truth = records["eigvalsh fp64" if in_fp64 else "eigvalsh fp32"].found[0]
        table = {name: record.row(truth, case.m) for name, record in records.items()}
        result: dict[str, Any] = {
            "environment": environment(RIVALS),
            "threads": torch.get_num_threads(),
            "device": device_name(self.device),
            "gemm_fp32_flops": peaks.gemm,
            "copy_bytes_per_second": peaks.bandwidth,
            "truth": f"eigvalsh {'fp64' if in_fp64 else 'fp32'}",
            "truth_values": [
                {
                    "log_det": t.log_det,
                    "effective_rank": t.effective_rank,
                    "lambda_max": t.lambda_max,
                }
                for t in truth
            ],
            "ways": table,
            "ratios": {
                name: ratios(name, table)
                for name in ("ours auto", "ours lanczos", "ours exact")
                if "seconds" in table[name]
            },
        }
        if case.chunk is None:
            result["limits"] = self._limits(case, rows, table["ours lanczos"], peaks)
        if case.tracked:
            known = in_fp64 and self._exact_seconds(case) < DRIFT_TRUTH_UP_TO
            result["tracking"] = self._tracking(rows[0], truth[0] if known else None)
        return result

    def _exact_seconds(self, case: Case) -> float:
        return case.layers * rates(self.device).exact_seconds(
            case.n, case.m, d=case.d, sampling=False
        )

    def _prepared(self, case: Case, in_fp64: bool) -> list[Rival]:
        """Those of all ways, marked where they cannot run, and warm where they can."""
        small = replace(case, n=192, m=96, layers=min(case.layers, 2))
        warm = small.rows(self.device)
        quick = ways(small, self.device, QUICK_SLQ)
        everyone = ways(case, self.device, QUICK_SLQ if self.quick else Slq())
        prepared = []
        for way, trial in zip(everyone, quick, strict=True):
            if not way.missing and case.d > way.up_to:
                way = replace(way, missing=f"not above d = {way.up_to:g}")
            if not way.missing and way.name == "eigvalsh fp64" and not in_fp64:
                way = replace(way, missing="would take over ten minutes")
            if not (way.missing or self.quick):
                trial.work(warm, 0)
            prepared.append(way)
        return prepared

    def _turns(self, rows: Tensor, contestants: Sequence[Rival]) -> dict[str, Record]:
        records = {way.name: Record(failed=way.missing) for way in contestants}
        for turn in range(self.repeats):
            for way in contestants:
                record = records[way.name]
                if record.done:
                    continue
                gc.collect()
                try:
                    seconds, found = timed(partial(way.work, rows, turn), self.device)
                except (RuntimeError, MemoryError) as error:
                    record.failed = f"failed: {str(error).splitlines()[0]}"
                    continue
                record.seconds.append(seconds)
                record.found.append(found)
                print(f"  {way.name:28} {seconds:10.3f} s", flush=True)
        return records

    def _limits(
        self, case: Case, rows: Tensor, lanczos: dict[str, Any], peaks: Peaks
    ) -> dict[str, float]:
        """Time at the limits of arithmetic and of bandwidth, as shares of the time taken."""
        with counted_passes() as passes:
            (found, *_) = ours(case, "lanczos")(rows, 0)
        total = rows.numel()
        flops = 4.0 * total * sum(passes)
        seconds = lanczos["seconds"]
        return {
            "matvecs_a_layer": found.matvecs,
            "passes": len(passes),
            "flops": flops,
            "bytes": 4.0 * total * len(passes),
            "arithmetic_share": flops / peaks.gemm / seconds,
            "bandwidth_share": 4.0 * total * len(passes) / peaks.bandwidth / seconds,
        }

    def _tracking(self, rows: Tensor, truth: Found | None) -> dict[str, Any]:
        """First checks, and next checks of rows that changed a little, in turns."""
        generator = torch.Generator(self.device).manual_seed(0)
        changed = torch.randn(rows.shape, generator=generator, device=self.device)
        changed.mul_(CHANGE).add_(1).mul_(rows)
        settings = {"method": "lanczos", "relative_ridge": RELATIVE_RIDGE, "sampling": False}
        first: list[float] = []
        following: list[float] = []
        for _ in range(self.repeats):
            seconds, before = timed(lambda: spectral_summary(rows, **settings), self.device)
            first.append(seconds)
            seconds, after = timed(
                lambda b=before: spectral_summary(changed, previous=b, **settings), self.device
            )
            following.append(seconds)
        drift = spectral_drift(before, after)
        result: dict[str, Any] = {
            "relative_change": CHANGE,
            "first_seconds": median(first),
            "next_seconds": median(following),
            "ratio": median(first) / median(following),
            "first_matvecs": before.matvecs,
            "next_matvecs": after.matvecs,
            "ratio_matvecs": before.matvecs / after.matvecs,
            "followed": after.randomized.anchor is not None,
        }
        true = None if truth is None else eigenvalues(changed, EXACT, None)
        for name in ("log_det", "effective_rank", "lambda_max"):
            change = getattr(drift, name)
            row = {"value": change.value, "low": change.low, "high": change.high}
            if true is not None:
                row["truth"] = getattr(true, name) - getattr(truth, name)
                row["inside"] = bool(change.low <= row["truth"] <= change.high)
            result[name] = row
        return result


def ratios(name: str, table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Seconds of the best alternatives over ours."""
    own = table[name]
    equal = {key: max(own["errors"][key], ROUNDING) for key in ACCURACY}
    best_own = min(
        table[way]["seconds"] for way in ("ours lanczos", "ours exact") if "seconds" in table[way]
    )
    return {
        "meets_target": _within(own, TARGETS),
        "at_target": _best(table, TARGETS, own["seconds"]),
        "at_equal_accuracy": _best(table, equal, own["seconds"]),
        "log_det_alone": _best(table, {"log_det": TARGET}, own["seconds"]),
        "best_of_ours": best_own / own["seconds"],
    }


def _best(
    table: dict[str, dict[str, Any]], allowed: dict[str, float], seconds: float
) -> dict[str, Any] | None:
    found = {
        name: row["seconds"]
        for name, row in table.items()
        if not name.startswith("ours") and _within(row, allowed)
    }
    if not found:
        return None
    best = min(found, key=found.__getitem__)
    return {"ratio": found[best] / seconds, "way": best}


def _within(row: dict[str, Any], allowed: dict[str, float]) -> bool:
    errors = row.get("errors", {})
    return all(name in errors and errors[name] <= most for name, most in allowed.items())


def available_memory(device: torch.device) -> float:
    """Bytes."""
    if device.type == "cuda":
        return 0.9 * torch.cuda.mem_get_info(device)[0]
    try:
        return 0.85 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):
        return math.inf


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def merged(out: Path, name: str, size: dict[str, Any]) -> dict[str, Any]:
    """The results so far with one size replaced, written."""
    results = json.loads(out.read_text()) if out.exists() else {"sizes": {}}
    sizes = results["sizes"] | {name: size}
    order = {known: i for i, known in enumerate(SIZES + QUICK)}
    results = {
        "environment": environment(RIVALS),
        "relative_ridge": RELATIVE_RIDGE,
        "targets": TARGETS,
        "sizes": {k: sizes[k] for k in sorted(sizes, key=lambda k: order.get(k, len(order)))},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(results, indent=1) + "\n")
    return results


# The page.


def table(results: dict[str, Any]) -> str:
    """All that docs/benchmarks.md says of one result file."""
    sizes = {name: size for name, size in results["sizes"].items() if "ways" in size}
    skipped = {n: s["skipped"] for n, s in results["sizes"].items() if "skipped" in s}
    lines = [_machine(sizes), "", *_overview(sizes), "", *_targets(sizes), "", *_tracked(sizes)]
    lines += ["", *_limit_rows(sizes)]
    for name, size in sizes.items():
        lines += ["", f"#### {_title(name)}", "", *_detail(size)]
        if not size["truth"].endswith("fp64"):
            lines += ["", f"Errors are against {size['truth']}, whose own error is left out."]
    if skipped:
        lines += ["", "Not run: " + "; ".join(f"{_title(n)}, {why}" for n, why in skipped.items())]
    return "\n".join(lines)


def _machine(sizes: dict[str, Any]) -> str:
    seen = []
    for size in sizes.values():
        env = size["environment"]
        line = (
            f"{env['date']}, {size['device']}, {env['machine']}, {env['cores']} cores, "
            f"{size['threads']} threads, Python {env['python']}, torch {env['packages']['torch']}"
        )
        if line not in seen:
            seen.append(line)
    return "Measured: " + "; ".join(seen) + "."


def _overview(sizes: dict[str, Any]) -> list[str]:
    rows = [
        [
            _title(name),
            _seconds(size["ways"]["ours auto"]),
            size["ways"]["ours auto"]["detail"].split(":")[0],
            _seconds(size["ways"]["ours lanczos"]),
            str(size["ways"]["ours lanczos"]["matvecs"]),
            *(
                _ratio(size["ratios"]["ours auto"][key])
                for key in ("at_target", "at_equal_accuracy", "log_det_alone")
            ),
            _ratio(size["ratios"]["ours lanczos"]["at_target"]),
        ]
        for name, size in sizes.items()
    ]
    return _markdown(
        [
            "n x m",
            "`auto`, s",
            "chose",
            "`lanczos`, s",
            "matvecs",
            "`auto`: best alternative at the target",
            "at equal accuracy",
            "log det alone",
            "`lanczos`: at the target",
        ],
        rows,
    )


def _targets(sizes: dict[str, Any]) -> list[str]:
    rows = []
    for name, size in sizes.items():
        case = Case.parse(name)
        best = size["ratios"]["ours auto"]["at_equal_accuracy"]
        at_target = size["ratios"]["ours auto"]["at_target"]
        rows.append([_title(name), "`auto`, equal accuracy: 0.9", *_verdict(best, 0.9)])
        met, said = _verdict(at_target, 0.9)
        if not size["ratios"]["ours auto"]["meets_target"]:
            met, said = "no", f"{said}; errors beyond the target"
        rows.append([_title(name), "`auto`, at the target: 0.9", met, said])
        if case.kind or case.layers > 1 or case.d < 4096:
            continue
        wanted = 5.0 if case.d >= 8192 else 2.0
        widths = size["ways"]["ours auto"]["half_widths"]
        met, said = _verdict(at_target, wanted)
        widest = ", ".join(
            f"{key} {width:.2g} nats" if key == "log_det_per_dim" else f"{key} {100 * width:.2g} %"
            for key, width in widths.items()
        )
        narrow = size["ratios"]["ours auto"]["meets_target"] and all(
            widths[key] <= TARGET for key in NARROW
        )
        rows.append(
            [
                _title(name),
                f"`auto`: {wanted:g}, half-widths of log det, entropy and λ_max 1 %",
                met if narrow else "no",
                f"{said}; half-widths {widest}; errors "
                + ("within" if size["ratios"]["ours auto"]["meets_target"] else "beyond")
                + " the target",
            ]
        )
    for name, size in sizes.items():
        if "tracking" in size:
            ratio = size["tracking"]["ratio"]
            rows.append(
                [_title(name), "next check: 3", "yes" if ratio >= 3 else "no", f"{ratio:.2f}"]
            )
    return _markdown(["n x m", "target", "met", "measured"], rows)


def _verdict(best: dict[str, Any] | None, wanted: float) -> tuple[str, str]:
    if best is None:
        return "yes", "no alternative"
    return ("yes" if best["ratio"] >= wanted else "no"), _ratio(best)


def _tracked(sizes: dict[str, Any]) -> list[str]:
    rows = []
    for name, size in sizes.items():
        if "tracking" not in size:
            continue
        found = size["tracking"]
        inside = [
            {True: "yes", False: "no", None: "truth not computed"}[found[key].get("inside")]
            for key in ("log_det", "effective_rank", "lambda_max")
        ]
        rows.append(
            [
                _title(name),
                f"{found['first_seconds']:.3g}",
                f"{found['next_seconds']:.3g}",
                f"{found['ratio']:.2f}",
                f"{found['first_matvecs']} / {found['next_matvecs']}",
                *inside,
            ]
        )
    return _markdown(
        [
            "n x m",
            "first check, s",
            "next check, s",
            "ratio",
            "matvecs",
            "drift of log det in its interval",
            "of effective rank",
            "of λ_max",
        ],
        rows,
    )


def _limit_rows(sizes: dict[str, Any]) -> list[str]:
    rows = [
        [
            _title(name),
            f"{size['gemm_fp32_flops'] / 1e9:.0f} GF/s",
            f"{size['copy_bytes_per_second'] / 1e9:.1f} GB/s",
            str(size["limits"]["passes"]),
            f"{100 * size['limits']['arithmetic_share']:.0f} %",
            f"{100 * size['limits']['bandwidth_share']:.0f} %",
        ]
        for name, size in sizes.items()
        if "limits" in size
    ]
    return _markdown(
        [
            "n x m",
            "fp32 products",
            "copy",
            "passes over the rows",
            "time at the arithmetic limit",
            "at the bandwidth limit",
        ],
        rows,
    )


def _detail(size: dict[str, Any]) -> list[str]:
    rows = []
    for name, row in size["ways"].items():
        if "skipped" in row:
            rows.append([name, row["skipped"], "", "", "", "", ""])
            continue
        note = row["detail"]
        if "extrapolated_seconds_to_target" in row:
            longer = row["extrapolated_seconds_to_target"]
            note += (
                "; biased"
                if longer is None
                else f"; {longer:.3g} s until effective rank is within 1 %"
            )
        rows.append(
            [
                name,
                _seconds(row),
                *(_number(row["errors"].get(key)) for key in (*ACCURACY, "lambda_max")),
                str(row["matvecs"] or "–"),
                note,
            ]
        )
    return _markdown(
        [
            "way",
            "seconds",
            "log det, nats a dimension",
            "effective rank, relative",
            "λ_max, relative",
            "matvecs",
            "",
        ],
        rows,
    )


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return []
    return [f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows)]


def _title(name: str) -> str:
    case = Case.parse(name)
    layers = f"{case.layers} layers of " if case.layers > 1 else ""
    return f"{layers}({case.n}, {case.m})" + (f" {case.kind}" if case.kind else "")


def _seconds(row: dict[str, Any]) -> str:
    return f"{row['seconds']:.3g}" + (" (once)" if row["timed_once"] else "")


def _ratio(best: dict[str, Any] | None) -> str:
    return "no alternative" if best is None else f"{best['ratio']:.2f} ({best['way']})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1e}" if value else "0"


def refresh(page: Path, name: str, text: str) -> None:
    """Replace what the page has between the markers of one device."""
    begin, end = f"<!-- spectrum:{name} -->", f"<!-- /spectrum:{name} -->"
    old = page.read_text()
    if begin not in old or end not in old:
        raise SystemExit(f"{page.name} has no markers {begin} and {end}")
    before, rest = old.split(begin, 1)
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end, 1)[1]}")


def result_file(device: str) -> Path:
    return RESULTS / ("spectrum.json" if device == "cpu" else f"spectrum_{device}.json")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a self-check of a few seconds")
    parser.add_argument("--sizes", nargs="+", type=Case.parse, metavar="SIZE")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--threads",
        type=int,
    )
    parser.add_argument("--truth", choices=("auto", "fp64", "fp32"), default="auto")
    parser.add_argument("--out", type=Path, help="a quick run writes nothing without it")
    parser.add_argument("--table", action="store_true", help="write docs/benchmarks.md, no run")
    options = parser.parse_args()
    if options.table:
        for device in ("cpu", "cuda"):
            if result_file(device).exists():
                refresh(PAGE, device, table(json.loads(result_file(device).read_text())))
        return
    cores = 1 if options.quick else min(os.cpu_count() or 1, 16)
    torch.set_num_threads(options.threads or cores)
    out = options.out or (None if options.quick else result_file(options.device))
    cases = options.sizes or [Case.parse(name) for name in (QUICK if options.quick else SIZES)]
    device = torch.device(options.device)
    bench = Bench(device, 1 if options.quick else options.repeats, options.truth, options.quick)
    rates(device)
    for case in cases:
        print(case.name, flush=True)
        started = time.perf_counter()
        size = bench.measure(case)
        print(f"  {size.get('skipped', 'done')}: {time.perf_counter() - started:.1f} s", flush=True)
        for name, ratio in size.get("ratios", {}).items():
            print(f"  {name}: at the target {_ratio(ratio['at_target'])}", flush=True)
        if out is not None:
            merged(out, case.name, size)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
