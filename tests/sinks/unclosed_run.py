"""A run with an alert that nobody closes: `tests.sinks.unclosed_run FOLDER URL END SECONDS`.

It says "alerted", and falls off its end, or waits for the SIGTERM that makes it exit. Closing may
take so many seconds.
"""

import signal
import sys
import time

from sigma_monitor.sinks import WebhookSink, outlet
from tests.snapshots import alert, snapshot

if __name__ == "__main__":
    folder, url, end, seconds = sys.argv[1:]
    outlet.CLOSE_SECONDS = float(seconds)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
    sinks = outlet.Outlet(["default", WebhookSink(url, timeout=60.0)], folder)
    for step, kind in enumerate(("WARNING", "COLLAPSED")):
        sinks.deliver(snapshot(step), [alert(kind, step=step)])
    print("alerted", flush=True)
    if end == "SIGTERM":
        time.sleep(60)
