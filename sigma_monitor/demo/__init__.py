"""`sigma-monitor demo`: a healthy training and two that collapse, side by side, without a download.

`corpus` makes text, tokenizer and blocks, `arms` the trainings, `live` shows one while it runs,
`picture` draws them, `run` puts them in order.
"""

from sigma_monitor.demo.run import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
