"""Every sink with its real library, and what has arrived in a store of this machine.

A store has the `sink`; `rows()`, the metrics of each step, or None where the sink keeps none;
`alerts()`, one text each, or None likewise; and `break_down()`, after which no call can arrive.
`many` is how many rows it takes in a second or so.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sigma_monitor.sinks import (
    AppriseSink,
    ConsoleSink,
    FunctionSink,
    JsonlSink,
    MetricsSink,
    MlflowSink,
    Sink,
    TensorBoardSink,
    TrackioSink,
    WandbSink,
    WebhookSink,
    read_record,
)
from tests.integrations.wandb_file import WandbFile
from tests.sinks.servers import Mail, Web, serving

Rows = dict[int, Mapping[str, float]]


class Store:
    """What they have in common: nothing arrives that the sink does not keep."""

    sink: Sink
    many = 10_000
    raises = True  # when it has broken down; a library that swallows everything does not

    def rows(self) -> Rows | None:
        return None

    def alerts(self) -> list[str] | None:
        return None

    def break_down(self) -> None:
        raise NotImplementedError


class Jsonl(Store):
    def __init__(self, folder: Path) -> None:
        self.path = folder / "record.jsonl"
        self.sink = JsonlSink(self.path)

    def rows(self) -> Rows:
        if not self.path.exists():
            return {}
        record = read_record(self.path)
        return {kept.step: kept.metrics() for kept in [*record.snapshots, *record.observations]}

    def alerts(self) -> list[str]:
        found = read_record(self.path).alerts if self.path.exists() else []
        return [_words(alert) for alert in found]

    def break_down(self) -> None:
        self.sink.__init__("/dev/full")


class Console(Store):
    def __init__(self, capsys: Any) -> None:
        self.sink = ConsoleSink()
        self._capsys = capsys

    def alerts(self) -> list[str]:
        lines = self._capsys.readouterr().err.splitlines()
        heads = [place for place, line in enumerate(lines) if line.startswith("[")]
        return ["\n".join(lines[a:b]) for a, b in itertools.pairwise([*heads, None])]

    def break_down(self) -> None:
        sys.stderr = open("/dev/full", "w", buffering=1)  # noqa: SIM115, where all writing fails


class Function(Store):
    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.broken = False
        self.sink = FunctionSink(self._take)

    def _take(self, alert: Any) -> None:
        if self.broken:
            raise ConnectionResetError("gone")
        self.taken.append(alert)

    def alerts(self) -> list[str]:
        return [_words(alert.to_dict()) for alert in self.taken]

    def break_down(self) -> None:
        self.broken = True


class Metrics(Store):
    def __init__(self) -> None:
        self.taken: Rows = {}
        self.broken = False
        self.sink = MetricsSink(self._take)

    def _take(self, metrics: Mapping[str, float], step: int) -> None:
        if self.broken:
            raise ConnectionResetError("gone")
        self.taken[step] = metrics

    def rows(self) -> Rows:
        return self.taken

    def break_down(self) -> None:
        self.broken = True


class Wandb(Store):
    many = 500  # each takes some milliseconds

    def __init__(self, folder: Path) -> None:
        import wandb

        self.folder = folder
        self.run = wandb.init(project="battery", mode="offline", dir=folder)
        self.sink = WandbSink(self.run, metrics=True)

    def _file(self) -> WandbFile:
        self.run.finish()
        end = time.monotonic() + 20
        while time.monotonic() < end:
            with contextlib.suppress(AssertionError):  # cut off: wandb's process writes it still
                if (file := WandbFile.of_only_run(self.folder)).exited:
                    return file
            time.sleep(0.01)
        return WandbFile.of_only_run(self.folder)

    def rows(self) -> Rows:
        kept = [row for row in self._file().history if "sigma/step" in row]
        return {row["sigma/step"]: row for row in kept}

    def alerts(self) -> list[str]:
        return [f"{alert.title}\n{alert.text}" for alert in self._file().alerts]

    def break_down(self) -> None:
        self.run.finish()
        self.sink._given = _Gone()


class _Gone:
    """A run whose service was killed."""

    def __getattr__(self, name: str) -> Any:
        if name == "disabled":
            return False
        raise ConnectionResetError("gone")


class TensorBoard(Store):
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder = folder
        self.writer = SummaryWriter(str(folder))
        self.sink = TensorBoardSink(lambda: self.writer)

    def events(self) -> Any:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        self.sink.close()
        everything = dict.fromkeys(("scalars", "tensors", "histograms"), 0)
        return EventAccumulator(str(self.folder), size_guidance=everything).Reload()

    def rows(self) -> Rows:
        events, rows = self.events(), {}
        for tag in events.Tags()["scalars"]:
            for point in events.Scalars(tag):
                rows.setdefault(point.step, {})[tag] = point.value
        return rows

    def alerts(self) -> list[str]:
        events = self.events()
        tag = "sigma/alerts/text_summary"
        if tag not in events.Tags()["tensors"]:
            return []
        return [found.tensor_proto.string_val[0].decode() for found in events.Tensors(tag)]

    def break_down(self) -> None:
        self.writer.close()
        self.writer = _Gone()


class Trackio(Store):
    raises = False

    def __init__(self) -> None:
        import trackio

        self.project = f"battery-{uuid.uuid4().hex}"
        self.run = trackio.init(project=self.project, embed=False, auto_log_cpu=False)
        self.sink = TrackioSink(metrics=True).bind()

    def rows(self) -> Rows:
        from trackio.sqlite_storage import SQLiteStorage

        self.run.finish()
        rows = SQLiteStorage.get_logs(self.project, self.run.name)
        return {row["step"]: row for row in rows}

    def alerts(self) -> list[str]:
        import trackio

        self.run.finish()
        try:
            found = trackio.Api().alerts(self.project)
        except ValueError:  # nothing was ever written
            return []
        return [f"{alert['title']}\n{alert['text']}" for alert in reversed(found)]

    def break_down(self) -> None:
        pass  # the library swallows its failures, and says them itself


class Mlflow(Store):
    many = 50  # each is a transaction of its database

    def __init__(self) -> None:
        import mlflow

        self.run_id = mlflow.start_run().info.run_id
        self.sink = MlflowSink(metrics=True).bind()

    def rows(self) -> Rows:
        from mlflow import MlflowClient

        client, rows = MlflowClient(), {}
        for name in client.get_run(self.run_id).data.metrics:
            for point in client.get_metric_history(self.run_id, name):
                rows.setdefault(point.step, {})[name] = point.value
        return rows

    def files(self) -> dict[str, Any]:
        import mlflow

        paths = [file.path for file in mlflow.artifacts.list_artifacts(run_id=self.run_id)]
        found = {}
        while paths:
            path = paths.pop()
            below = mlflow.artifacts.list_artifacts(run_id=self.run_id, artifact_path=path)
            paths += [file.path for file in below]
            if path.endswith(".json"):
                text = mlflow.artifacts.load_text(f"runs:/{self.run_id}/{path}")
                found[path] = json.loads(text, parse_constant=_refuse)
        return found

    def alerts(self) -> list[str]:
        return [_words(alert) for _, alert in sorted(self.files().items())]

    def break_down(self) -> None:
        import mlflow

        mlflow.end_run()
        self.sink.__init__("0" * 32, metrics=True)  # of no run


class Webhook(Store):
    def __init__(self, web: Web) -> None:
        self.web = web
        self.sink = WebhookSink(web.url())

    def alerts(self) -> list[str]:
        return [_words(alert) for alert in self.web.bodies]

    def break_down(self) -> None:
        self.web.status = 500


class Apprise(Store):
    def __init__(self, web: Web) -> None:
        self.web = web
        self.sink = AppriseSink(f"json://127.0.0.1:{web.server_port}/")

    def alerts(self) -> list[str]:
        return [f"{taken['title']}\n{taken['message']}" for taken in self.web.bodies]

    def break_down(self) -> None:
        self.web.status = 500


class AppriseMail(Store):
    def __init__(self, mail: Mail) -> None:
        self.mail = mail
        self.sink = AppriseSink(
            f"mailto://127.0.0.1:{mail.port}/?from=sigma@example.org&to=me@example.org&format=text"
        )
        self.sink._services[0].request_rate_per_sec = 0  # seconds between two mails

    def alerts(self) -> list[str]:
        return [f"{m['Subject']}\n{_plain_part(m)}" for m in self.mail.messages]

    def break_down(self) -> None:
        self.mail.refuses = True


def _plain_part(message: Any) -> str:
    return str(message.get_body(("plain", "html")).get_content()).replace("\r\n", "\n")


def _words(alert: Mapping[str, Any]) -> str:
    return f"{alert['title']}\n{alert['text']}\n{alert['advice']}"


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


STORES = (
    "jsonl",
    "console",
    "function",
    "metrics",
    "wandb",
    "tensorboard",
    "trackio",
    "mlflow",
    "webhook",
    "apprise",
    "apprise_mail",
)


@contextlib.contextmanager
def opened(name: str, folder: Path, capsys: Any) -> Iterator[Store]:
    """The store of this name, new and empty."""
    with contextlib.ExitStack() as stack:
        if name in ("webhook", "apprise"):
            web = stack.enter_context(serving(Web()))
            yield (Webhook if name == "webhook" else Apprise)(web)
        elif name == "apprise_mail":
            yield AppriseMail(stack.enter_context(serving(Mail())))
        elif name == "wandb":
            store = Wandb(folder)
            stack.callback(store.run.finish)
            yield store
        elif name == "trackio":
            store = Trackio()
            stack.callback(store.run.finish)
            yield store
        elif name == "mlflow":
            import mlflow

            stack.callback(mlflow.end_run)
            yield Mlflow()
        elif name == "console":
            stderr = sys.stderr
            yield Console(capsys)
            sys.stderr = stderr
        elif name in ("jsonl", "tensorboard"):
            yield (Jsonl if name == "jsonl" else TensorBoard)(folder)
        else:
            yield (Function if name == "function" else Metrics)()
