"""All findings together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sigma_monitor import __version__
from sigma_monitor.doctor.devices import examine_devices
from sigma_monitor.doctor.engine import examine_engine
from sigma_monitor.doctor.finding import Finding
from sigma_monitor.doctor.packages import examine_packages
from sigma_monitor.doctor.tracking import examine_tracking

__all__ = ["Examination", "examine"]


@dataclass(frozen=True)
class Examination:
    """What `examine` found."""

    version: str  # of sigma_monitor
    findings: tuple[Finding, ...]

    @property
    def as_expected(self) -> bool:
        """Whether nothing failed."""
        return all(finding.state != "failed" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready builtins."""
        return {
            "version": self.version,
            "as_expected": self.as_expected,
            "findings": [asdict(finding) for finding in self.findings],
        }

    def text(self) -> str:
        """A line for each finding, what to do below it, and what it all comes to."""
        lines = [f"sigma-monitor {self.version}"]
        width = max(len(finding.name) for finding in self.findings)
        section = None
        for finding in self.findings:
            if finding.section != section:
                section = finding.section
                lines += ["", section]
            lines.append(f"  {finding.state:<6}  {finding.name:<{width}}  {finding.text}")
            if finding.remedy is not None:
                lines.append(f"{'':<{width + 12}}{finding.remedy}")
        failed = sum(finding.state == "failed" for finding in self.findings)
        lines += ["", f"{failed} of {len(self.findings)} failed" if failed else "all as expected"]
        return "\n".join(lines)


def examine() -> Examination:
    """Look at packages, devices, the engine on the first of them, and the configuration of W&B."""
    devices, device = examine_devices()
    findings = [*examine_packages(), *devices, *examine_engine(device), *examine_tracking()]
    return Examination(__version__, tuple(findings))
