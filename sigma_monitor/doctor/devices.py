"""What torch computes on here."""

from __future__ import annotations

import os

import torch

from sigma_monitor.doctor.finding import Finding

__all__ = ["examine_devices"]

_SECTION = "device"
_DTYPES = {
    "fp64": torch.float64,
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
_SIZE = 16  # of the products that a dtype is tried on


def examine_devices() -> tuple[list[Finding], torch.device]:
    """Every device with the dtypes that it multiplies matrices in, and the first that can."""
    findings = [_of_cpu()]
    working = [torch.device("cpu")]
    for device, name in _accelerators():
        finding = _tried(device, name)
        findings.append(finding)
        if finding.state == "ok":
            working.append(device)
    if torch.version.cuda is not None and not torch.cuda.is_available():
        findings.append(
            Finding(
                _SECTION,
                "cuda",
                "note",
                f"torch is built for CUDA {torch.version.cuda} and finds no device",
                "If this machine has one: look at nvidia-smi, the driver and CUDA_VISIBLE_DEVICES.",
            )
        )
    return findings, working[1] if len(working) > 1 else working[0]


def _accelerators() -> list[tuple[torch.device, str]]:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = []
    for index in range(count):
        of = torch.cuda.get_device_properties(index)
        name = f"{of.name}, {of.total_memory / 2**30:.0f} GiB"
        found.append((torch.device("cuda", index), name))
    if torch.backends.mps.is_available():
        found.append((torch.device("mps"), "Apple Metal"))
    return found


def _of_cpu() -> Finding:
    threads = f"{torch.get_num_threads()} threads of torch on {os.cpu_count()} processors"
    return _tried(torch.device("cpu"), threads)


def _tried(device: torch.device, name: str) -> Finding:
    works: list[str] = []
    failed: list[str] = []
    for dtype_name, dtype in _DTYPES.items():
        try:
            multiplied = _multiplies(device, dtype)
        except (RuntimeError, TypeError) as error:  # the latter of Metal, which has no fp64
            failed.append(f"{dtype_name} ({str(error).splitlines()[0]})")
            continue
        (works if multiplied else failed).append(dtype_name)
    text = f"{name}; multiplies {', '.join(works) or 'nothing'}"
    if failed:
        text += f", not {', '.join(failed)}"
    if "fp32" in works:
        return Finding(_SECTION, str(device), "ok", text)
    remedy = "Reinstall torch for this machine, by the selector on its installation page."
    return Finding(_SECTION, str(device), "failed", text, remedy)


def _multiplies(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a product of small integers, exact in every dtype, is right."""
    rows = torch.arange(_SIZE, device="cpu").remainder(3).expand(_SIZE, _SIZE).contiguous()
    there = rows.to(device, dtype)
    found = (there @ there.T).cpu()
    return bool(torch.equal(found.to(torch.int64), rows @ rows.T))
