"""The one added line, in a Lightning Trainer that trains a small model from scratch on bytes.

Run: python examples/lightning_trainer.py (called lightning.py, it would hide the package)
"""

from pydoc_data.topics import topics

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from sigma_monitor import SigmaLightningCallback


class LanguageModel(LightningModule):
    def __init__(self):
        super().__init__()
        config = LlamaConfig(
            vocab_size=256,
            hidden_size=48,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
        )
        self.model = LlamaForCausalLM(config)

    def training_step(self, batch, batch_idx):
        loss = self.model(**batch).loss
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.model(**batch).loss)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


data = "\n".join(topics.values()).encode()
blocks = [torch.tensor(list(data[start : start + 64])) for start in range(0, 200_000, 64)]
examples = [{"input_ids": block, "labels": block} for block in blocks[:-1]]

trainer = Trainer(
    max_steps=100,
    accelerator="cpu",
    logger=CSVLogger("runs", name="lightning", version=""),
    log_every_n_steps=20,
    enable_checkpointing=False,
    enable_progress_bar=False,
    callbacks=[SigmaLightningCallback()],
)
trainer.fit(
    LanguageModel(),
    DataLoader(examples[:-300], batch_size=16, shuffle=True),
    DataLoader(examples[-300:], batch_size=64),
)
print("checks, alerts and settings: runs/lightning/sigma/record.jsonl")
print("metrics, beside the losses: runs/lightning/metrics.csv")
