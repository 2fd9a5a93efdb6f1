"""What bounds the alerts of a W&B run that is configured as it is here. Nothing is sent."""

from __future__ import annotations

import netrc
import os
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

from sigma_monitor.doctor.finding import Finding, State
from sigma_monitor.sinks.courier import ATTEMPTS
from sigma_monitor.sinks.outlet import CLOSE_SECONDS
from sigma_monitor.sinks.wandb_alert import MERGED_SECONDS, TIMEOUTS

__all__ = ["examine_tracking"]

_LATE = "alerts are kept in the run's file, and fire at `wandb sync`, late"
_OFF = {"offline": _LATE, "dryrun": _LATE, "disabled": "no alerts, and nothing is written"}
_CLOUD = "api.wandb.ai"  # under which a key of the default server is kept


def examine_tracking() -> list[Finding]:
    """Mode, key, and how long alerts, closing and `run.finish()` may take."""
    try:
        settings = _settings()
    except Exception as error:  # of wandb, about a variable or file that it does not take
        text = " ".join(str(error).split())
        return [_finding("settings", text, "Correct that WANDB_ variable or setting.", "failed")]
    mode = str(settings.mode)
    if mode in _OFF:
        return [_finding("mode", f"{mode}: {_OFF[mode]}")]
    return [
        _finding("mode", f"{mode}, to {urlsplit(settings.base_url).netloc}"),
        *_of_alerts(settings),
        _finding("close()", f"waits {CLOSE_SECONDS:g} s at most, for all sinks together"),
        _of_finish(settings),
    ]


def _finding(name: str, text: str, remedy: str | None = None, state: State = "ok") -> Finding:
    return Finding("W&B", name, state, text, remedy)


def _settings() -> Any:
    """Those that a run which passes none would have."""
    import wandb

    settings = wandb.setup().settings
    wandb.teardown()
    return settings


def _of_alerts(settings: Any) -> list[Finding]:
    key, token = _has_key(settings), settings.identity_token_file
    if os.environ.get("WANDB_API_KEY") and token:
        return [
            _finding(
                "key",
                "a key and an identity token, of which wandb takes no more than one",
                "Unset WANDB_API_KEY or WANDB_IDENTITY_TOKEN_FILE.",
                "failed",
            )
        ]
    if token:
        return [_finding("key", "an identity token"), _through_the_run(settings)]
    if not key:
        remedy = "To send runs and alerts: wandb login. To keep them here: WANDB_MODE=offline."
        return [_finding("key", "none: an online run asks for one", remedy, "note")]
    connect, answer = TIMEOUTS
    bounds = (
        f"each by a request of its own: {connect:g} s to connect, {answer:g} s for an answer, "
        f"{ATTEMPTS} attempts; W&B merges those of one title within {MERGED_SECONDS} s"
    )
    return [_finding("key", "found"), _finding("alerts", bounds)]


def _through_the_run(settings: Any) -> Finding:
    """Bounds of `run.alert`, which alone can use an identity token."""
    retries = settings.x_graphql_retry_max
    if retries is not None:
        return _finding("alerts", f"by run.alert, which tries {retries} times more")
    return _finding(
        "alerts",
        "by run.alert, without a bound: while their endpoint fails, no row of the run arrives, and "
        "its end waits for up to 15 minutes",
        "Set WANDB_X_GRAPHQL_RETRY_MAX=1, or log in with a key.",
        "failed",
    )


def _of_finish(settings: Any) -> Finding:
    seconds = getattr(settings, "finish_timeout", 0)  # older ones have none
    if seconds > 0:
        return _finding("run.finish()", f"gives up after {seconds:g} s")
    return _finding(
        "run.finish()",
        "is W&B's own, and waits without a bound where the whole server is gone",
        "Set WANDB_FINISH_TIMEOUT=60, say; what was not sent stays on disk for `wandb sync`.",
        "note",
    )


def _has_key(settings: Any) -> bool:
    """Where wandb looks for it: in the environment, its settings, and the netrc file."""
    if os.environ.get("WANDB_API_KEY") or settings.api_key:
        return True
    hosts = {urlsplit(settings.base_url).netloc}
    if settings.base_url == type(settings)().base_url:
        hosts.add(_CLOUD)
    with suppress(OSError, netrc.NetrcParseError):
        known = netrc.netrc(os.environ.get("NETRC"))
        return any(known.authenticators(host) for host in hosts)
    return False
