"""Arguments of the monitor, checked where they are given."""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeGuard

from sigma_monitor.alert import Alert
from sigma_monitor.channels import LOSS_RULE, checked_limits
from sigma_monitor.detection import Thresholds
from sigma_monitor.errors import InputError, RecordError
from sigma_monitor.reference import Reference
from sigma_monitor.sinks import FunctionSink, Sink
from sigma_monitor.sinks.outlet import SinkSpec
from sigma_monitor.snapshot import is_plain_name
from sigma_monitor.spectrum.summary import FUNCTIONALS, METHODS

__all__ = [
    "CHANNELS",
    "check_choices",
    "check_name",
    "check_output_dir",
    "chosen_sinks",
    "detector_options",
    "generation_options",
    "reference_and_kind",
    "shown",
    "stop_limits",
    "whole_step",
]

CHANNELS = ("representation", "generation")


def check_choices(
    functionals: Sequence[str], method: str, channels: Sequence[str], relative_ridge: float
) -> None:
    """Raise an `InputError` on a choice that is none.

    Args:
        functionals: Attributes of `SpectralSummary`.
        method: Of the spectra.
        channels: That are watched.
        relative_ridge: Of log det.
    """
    unknown = [name for name in functionals if name not in FUNCTIONALS]
    if isinstance(functionals, str) or unknown:
        raise InputError(f"functionals={functionals!r}: pass a list of {', '.join(FUNCTIONALS)}.")
    if method not in METHODS:
        raise InputError(f'method={method!r}: pass "auto", "exact" or "lanczos".')
    if isinstance(channels, str) or not {"representation"} <= set(channels) <= set(CHANNELS):
        raise InputError(
            f'channels={channels!r}: pass ("representation",) or ("representation", "generation").'
        )
    if not 0 < relative_ridge < 1:
        raise InputError(f"relative_ridge={relative_ridge!r}: pass a share such as 1e-3.")


def check_name(name: Any) -> None:
    """Raise an `InputError` on a name that loggers, folders or checkpoints cannot take.

    Args:
        name: Of the monitor.
    """
    if not is_plain_name(name):
        raise InputError(f'name={name!r}: pass letters, digits, "_" and "-", such as "student".')
    if name.startswith(("eval_", "test_")):  # a transformers Trainer takes these for its own
        raise InputError(f"name={name!r}: pass one that does not begin with {name[:5]!r}.")


def check_output_dir(output_dir: Any) -> None:
    """Raise an `InputError` on what is no path of a folder.

    Args:
        output_dir: Of the run.
    """
    if output_dir is not None and not isinstance(output_dir, (str, os.PathLike)):
        raise InputError(
            f"output_dir={output_dir!r} is of type {type(output_dir).__name__}: pass the path of a "
            "folder, or None for no record."
        )


def shown(value: Any) -> str:
    """A value in a message: a number or text as it is, anything else by its type alone.

    The `repr` of a stranger may raise, or be that of a large matrix.
    """
    plain = value is None or type(value) in (bool, int, float, complex, str)
    return repr(value) if plain else f"<{type(value).__name__}>"


def whole_step(step: Any) -> int:
    """A step as an integer.

    Args:
        step: As it was given, also as an integer of numpy or torch.

    Raises:
        InputError: When it is no whole number.
    """
    try:
        return operator.index(step)
    except Exception as error:  # each kind of array has its own
        raise InputError(
            f"step={shown(step)}: pass the optimiser steps so far, a whole number."
        ) from error


def chosen_sinks(sinks: Sequence[SinkSpec] | None) -> tuple[Sink | Literal["default"], ...]:
    """Where checks and alerts go.

    Args:
        sinks: Sinks, functions of an alert, and `"default"` for those that there are without this
            argument; None for these alone.

    Raises:
        InputError: On what is none of these.
    """
    if sinks is None:
        return ("default",)
    return tuple(
        FunctionSink(sink) if _is_function(sink) else _checked(sink, sinks) for sink in sinks
    )


def _is_function(sink: Any) -> TypeGuard[Callable[[Alert], Any]]:
    return callable(sink) and not isinstance(sink, type) and not hasattr(sink, "alert")


def _checked(sink: Any, sinks: Any) -> Any:
    known = all(hasattr(sink, name) for name in ("log", "alert", "close"))
    if isinstance(sinks, str) or not (known or sink == "default"):
        raise InputError(
            f'sinks={sinks!r}: pass a list of sinks, and "default" among them to keep the record '
            "and the console. A function among them is called with every alert; one that logs "
            "metrics goes into MetricsSink(function)."
        )
    return sink


def reference_and_kind(
    baseline: Any,
) -> tuple[Reference | None, Literal["auto", "start", "plateau"]]:
    """The baseline of another run, if any, and the kind that stands in where it does not fit.

    Args:
        baseline: A kind, the path of a record, or a `Reference`.

    Raises:
        InputError: When it is none of these, or the record holds no baseline.
    """
    if isinstance(baseline, Reference):
        return baseline, "auto"
    if baseline in ("auto", "start", "plateau"):
        return None, baseline
    if not isinstance(baseline, (str, os.PathLike)):
        raise InputError(
            f'baseline={baseline!r}: pass "auto", "start", "plateau", the path of a record.jsonl, '
            "or a generation of a RunLineage."
        )
    try:
        return Reference.from_record(baseline), "auto"
    except RecordError as error:
        raise InputError(
            f'baseline={baseline!r} is none of "auto", "start", "plateau", and as a record: {error}'
        ) from error


def detector_options(
    detector: str | Mapping[str, Any] | None, stop_on_collapse: bool | float | Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Thresholds by channel, as `WatchOptions` takes them.

    Args:
        detector: A preset, or thresholds with those of other channels under their names.
        stop_on_collapse: A ratio moves the threshold of COLLAPSED, and the warnings above it.

    Raises:
        InputError: On what cannot be used.
    """
    options: dict[str, Any] = (
        {"preset": detector} if isinstance(detector, str) else dict(detector or {})
    )
    if not isinstance(stop_on_collapse, (bool, int, float, Mapping)):
        raise InputError(
            f"stop_on_collapse={stop_on_collapse!r}: pass True, False, a ratio of effective rank "
            'to its baseline such as 0.5, or limits of functionals such as {"stable_rank": 0.3}.'
        )
    foreign = options.keys() & {"baseline", "expected_checks"}
    if foreign:
        raise InputError(
            f"detector={dict(options)!r}: {', '.join(sorted(foreign))} is set by the monitor; pass "
            "baseline= to it, and thresholds only in detector=."
        )
    others = {name: dict(options.pop(name, {})) for name in ("generation", "loss")}
    if not isinstance(stop_on_collapse, (bool, Mapping)):
        preset = Thresholds.of(options.get("preset", "default"))
        rule = preset.collapsing_at(float(stop_on_collapse))
        options = {
            "collapsed": rule.collapsed,
            "warning_fast": rule.warning_fast,
            "warning_slow": rule.warning_slow,
        } | options
    for thresholds in (options, others["generation"], {**LOSS_RULE, **others["loss"]}):
        Thresholds.of(**thresholds)  # raises on what cannot be used
    named = {"representation": options, **others}
    return {channel: _plain(thresholds) for channel, thresholds in named.items()}


def _plain(thresholds: Mapping[str, Any]) -> dict[str, Any]:
    """As the record can hold them: scalars of numpy and torch are no JSON."""
    return {name: x.item() if hasattr(x, "item") else x for name, x in thresholds.items()}


def stop_limits(stop_on_collapse: Any) -> dict[str, float]:
    """Limits of single functionals at which the run stops; none unless it is a mapping.

    Raises:
        InputError: On a limit that cannot be used.
    """
    return checked_limits(stop_on_collapse) if isinstance(stop_on_collapse, Mapping) else {}


def generation_options(generation: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options of the generation channel, as `WritingProbe` takes them.

    Raises:
        InputError: On one that is an argument of the monitor itself.
    """
    options = dict(generation or {})
    foreign = options.keys() & {"encoder", "relative_ridge"}
    if foreign:
        raise InputError(
            f"generation={options!r}: {', '.join(sorted(foreign))} is an argument of the monitor; "
            "pass it there."
        )
    return options
