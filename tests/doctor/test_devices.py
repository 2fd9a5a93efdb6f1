"""What torch computes on."""

from __future__ import annotations

import pytest
import torch

from sigma_monitor.doctor import devices
from sigma_monitor.doctor.devices import examine_devices


def test_the_cpu_is_the_device_where_there_is_no_other(monkeypatch):
    monkeypatch.setattr(devices, "_accelerators", lambda: [])
    findings, device = examine_devices()
    assert (findings[0].name, findings[0].state) == ("cpu", "ok")
    assert device == torch.device("cpu")


def test_an_accelerator_comes_first(monkeypatch):
    other = torch.device("cpu", 0)  # stands in for one
    monkeypatch.setattr(devices, "_accelerators", lambda: [(other, "a GPU, 80 GiB")])
    findings, device = examine_devices()
    assert device == other
    assert findings[1].text.startswith("a GPU, 80 GiB; multiplies fp64")


def test_a_dtype_that_is_missing_is_named(monkeypatch):
    right = devices._multiplies

    def without(device, dtype):
        if dtype == torch.float64:
            raise TypeError("Cannot convert to float64\nmore of it")
        return dtype != torch.float16 and right(device, dtype)

    monkeypatch.setattr(devices, "_multiplies", without)
    findings, _ = examine_devices()
    assert findings[0].state == "ok"
    assert "multiplies fp32, bf16, not fp64 (Cannot convert to float64), fp16" in findings[0].text


@pytest.mark.parametrize("broken", ["raises", "is wrong"])
def test_a_device_that_cannot_multiply_fails_and_is_not_used(monkeypatch, broken):
    def fails(device, dtype):
        if device.type == "cpu" and device.index is None:
            return True
        if broken == "raises":
            raise RuntimeError("CUDA error: no kernel image is available")
        return False

    monkeypatch.setattr(devices, "_multiplies", fails)
    other = torch.device("cpu", 0)
    monkeypatch.setattr(devices, "_accelerators", lambda: [(other, "an old GPU")])
    findings, device = examine_devices()
    assert device == torch.device("cpu")
    assert device.index is None
    assert findings[1].state == "failed"
    assert "Reinstall torch" in findings[1].remedy


def test_a_build_for_cuda_without_a_device_is_noted(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    findings, _ = examine_devices()
    assert (findings[-1].name, findings[-1].state) == ("cuda", "note")
    assert "nvidia-smi" in findings[-1].remedy
