"""The self-test of the engine: silent while it is right, and loud once it is not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from sigma_monitor.doctor import engine
from sigma_monitor.doctor.engine import examine_engine
from sigma_monitor.spectrum import functionals, tracks
from tests.spectrum import naive

CPU = torch.device("cpu")
NAMES = [
    "prescribed spectrum",
    "orthonormal rows",
    "rows of rank one",
    "lanczos and exact",
    "SIGMA's tracks",
]


def failed(device=CPU):
    return [finding.name for finding in examine_engine(device) if finding.state == "failed"]


def test_the_engine_is_as_it_should_be():
    findings = examine_engine(CPU)
    assert [finding.name for finding in findings] == NAMES
    assert {finding.state for finding in findings} == {"ok"}
    assert "8 numbers as they should be on cpu" in findings[0].text


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU")
def test_the_engine_is_as_it_should_be_on_a_gpu():
    assert failed(torch.device("cuda", 0)) == []


def test_the_closed_forms_are_those_of_the_tests():
    eigenvalues = np.array([4.0, 1.0, 0.25])
    found = engine._closed_forms(eigenvalues, m=5)
    expected = naive.of_spectrum(np.append(eigenvalues, [0, 0]), engine._RIDGE * 5.25 / 5)
    assert found == pytest.approx({name: expected[name] for name in found}, rel=1e-12)


@pytest.mark.parametrize(
    ("broken", "by", "noticed"),
    [
        ((functionals, "effective_rank"), lambda value: value * (1 + 1e-6), NAMES[:3]),
        ((functionals, "renyi_rank"), lambda value: value + 0.01, NAMES[:3]),
        ((functionals, "log_det"), lambda value: math.nan, NAMES[:3]),
        ((tracks, "_log_det"), lambda value: value + 1e-6, ["SIGMA's tracks"]),
    ],
)
def test_a_number_that_is_off_is_noticed(monkeypatch, broken, by, noticed):
    module, name = broken
    right = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *a, **k: by(right(*a, **k)))
    assert failed() == noticed


def test_an_interval_that_misses_is_noticed(monkeypatch):
    right = engine.spectral_summary

    def moved(rows, **options):
        """The spectrum of other rows, which the randomised way takes for these."""
        return right(rows * 1.01 if options["method"] == "lanczos" else rows, **options)

    monkeypatch.setattr(engine, "spectral_summary", moved)
    assert failed() == ["lanczos and exact"]


def test_a_linear_algebra_that_raises_is_told(monkeypatch):
    def refuse(*_, **__):
        raise RuntimeError("no such kernel\nsecond line")

    monkeypatch.setattr(engine, "spectral_summary", refuse)
    findings = {finding.name: finding for finding in examine_engine(CPU)}
    assert findings["orthonormal rows"].state == "failed"
    assert findings["orthonormal rows"].text == "RuntimeError: no such kernel"
    assert "reinstall torch" in findings["orthonormal rows"].remedy
    assert findings["SIGMA's tracks"].state == "ok"
