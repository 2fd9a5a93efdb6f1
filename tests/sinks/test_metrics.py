"""Metrics handed to a function that logs."""

from sigma_monitor.sinks import MetricsSink
from tests.snapshots import alert, snapshot


def test_a_check_is_one_call_with_its_metrics_at_its_step():
    calls = []
    sink = MetricsSink(lambda *values, **options: calls.append((values, options)))
    for step in (10, 20):
        sink.log(snapshot(step).metrics(), step)
        sink.alert(alert(step=step))
    sink.close()
    sink.close()
    assert calls == [((snapshot(step).metrics(),), {"step": step}) for step in (10, 20)]
