"""One Trainer under two names: `lightning.pytorch` and `pytorch_lightning`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integrations.lightning_hosts import checked_at

REPOSITORY = Path(__file__).parents[2]
OTHER = {"lightning": "pytorch_lightning", "pytorch_lightning": "lightning"}

# A whole training, with nothing imported that imports either package.
PROGRAM = """
import sys
import {module} as host
import torch
from torch.utils.data import DataLoader
from sigma_monitor import SigmaLightningCallback
from tests.integrations.models import tiny_llama, token_rows

torch.set_num_threads(1)

class Wrapped(host.LightningModule):
    def __init__(self):
        super().__init__()
        self.model = tiny_llama()

    def training_step(self, batch, batch_idx):
        return self.model(**batch).loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-3)

trainer = host.Trainer(
    default_root_dir=sys.argv[1], accelerator="cpu", max_steps=6, logger=False,
    enable_checkpointing=False, enable_progress_bar=False,
    callbacks=[SigmaLightningCallback(every=3, max_overhead=None)],
)
trainer.fit(Wrapped(), DataLoader(token_rows(32), batch_size=4))
assert isinstance(trainer.callbacks[0], host.Callback)
assert "{other}" not in sys.modules
"""


@pytest.mark.parametrize(
    "package", [pytest.param("lightning", marks=pytest.mark.long), "pytorch_lightning"]
)
def test_the_callback_is_of_the_package_that_was_imported(package: str, tmp_path: Path) -> None:
    module = "lightning.pytorch" if package == "lightning" else package
    program = PROGRAM.format(module=module, other=OTHER[package])
    command = [sys.executable, "-c", program, str(tmp_path)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr.decode()[-3000:]
    assert checked_at(tmp_path) == [0, 3, 6]


@pytest.mark.long
def test_a_callback_of_one_package_serves_a_trainer_of_the_other(tmp_path: Path) -> None:
    """As where something else has imported the package that the user does not use."""
    program = "import lightning.pytorch, sigma_monitor\nsigma_monitor.SigmaLightningCallback\n"
    program += PROGRAM.format(module="pytorch_lightning", other="nothing")
    program = program.replace("assert isinstance", "assert not isinstance")
    command = [sys.executable, "-c", program, str(tmp_path)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr.decode()[-3000:]
    assert checked_at(tmp_path) == [0, 3, 6]
