"""An alert to W&B that cannot hold up anything else.

`run.alert` stands in line with everything that wandb sends: while the endpoint of alerts answers
500, rows logged later are held back and `finish()` waits for 15 minutes. So an online run's alerts
go by a request of their own.
"""

from __future__ import annotations

from typing import Any

import requests

from sigma_monitor.alert import Alert
from sigma_monitor.errors import SinkError

__all__ = ["send_alert"]

_LEVELS = {"info": "INFO", "warn": "WARN", "error": "ERROR"}
_MERGED = 60  # seconds within which alerts of one title are one; the server allows no less
_TIMEOUTS = (3.0, 4.0)  # seconds to connect, and to answer
_MUTATION = """
mutation NotifyScriptableRunAlert(
  $entityName: String!, $projectName: String!, $runName: String!,
  $title: String!, $text: String!, $severity: AlertSeverity = INFO, $waitDuration: Duration
) {
  notifyScriptableRunAlert(input: {
    entityName: $entityName, projectName: $projectName, runName: $runName,
    title: $title, text: $text, severity: $severity, waitDuration: $waitDuration
  }) { success }
}
"""


def send_alert(run: Any, alert: Alert) -> None:
    """Send it for `run`, or leave it with an offline run until that is synchronised.

    Raises:
        SinkError: When W&B does not take it.
        requests.RequestException: When W&B is not reached, or answers with an error.
    """
    text = f"{alert.text}\n{alert.advice}".strip()
    level = _LEVELS[alert.severity]
    settings = run.settings
    if run.offline or not settings.api_key:  # with an identity token only wandb itself can send
        run.alert(alert.title, text, level=level, wait_duration=_MERGED)
        return
    variables = {
        "entityName": run.entity,
        "projectName": run.project,
        "runName": run.id,
        "title": alert.title,
        "text": text,
        "severity": level,
        "waitDuration": _MERGED * 1000,
    }
    answer = requests.post(
        f"{settings.base_url.rstrip('/')}/graphql",
        json={"query": _MUTATION, "variables": variables},
        auth=("api", settings.api_key),
        timeout=_TIMEOUTS,
    )
    answer.raise_for_status()
    body = answer.json()
    if body.get("errors") or not body["data"]["notifyScriptableRunAlert"]["success"]:
        raise SinkError(f"W&B did not take the alert: {answer.text[:200]}")
