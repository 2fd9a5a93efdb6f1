"""`sigma-monitor demo`: a healthy training and three that collapse, without a download.

`corpus` makes text, tokenizer and blocks, `own_text` blocks that the model writes itself,
`training` what one training is made of, `arms` the trainings, `live` shows one while it runs,
`picture` draws them, `run` puts them in order.
"""

from sigma_monitor.demo.run import DemoResult, run_demo

__all__ = ["DemoResult", "run_demo"]
