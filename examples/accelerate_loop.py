"""The monitor in a loop under accelerate: metrics in its trackers, state in its checkpoints.

Run: python examples/accelerate_loop.py (called accelerate.py, it would hide the package)
Run it again, and it goes on from the checkpoint of step 50.
"""

from itertools import chain, repeat
from pathlib import Path
from pydoc_data.topics import topics

import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader
from transformers import LlamaConfig, LlamaForCausalLM

from sigma_monitor import ProbeSet, SigmaMonitor
from sigma_monitor.sinks import MetricsSink

RUN, STEPS, SAVED = Path("runs/accelerate"), 100, 50

torch.manual_seed(0)
data = torch.tensor(list("\n".join(topics.values()).encode()[:210_000]))
blocks = data[: len(data) // 64 * 64].view(-1, 64)
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=256,
        hidden_size=48,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
)
accelerator = Accelerator(
    cpu=True,
    gradient_accumulation_steps=2,
    log_with="tensorboard",
    project_dir=RUN,
)
accelerator.init_trackers("logs")
model, optimizer, loader = accelerator.prepare(
    model,
    torch.optim.AdamW(model.parameters(), lr=1e-3),
    DataLoader(blocks[:-128], batch_size=8, shuffle=True),
)

monitor = SigmaMonitor(
    ProbeSet.from_tensors({"input_ids": blocks[-128:]}),
    every=5,
    max_overhead=None,  # a check at every fifth step, whatever it costs here
    max_steps=STEPS,
    output_dir=RUN,
    sinks=["default", MetricsSink(accelerator.log)],
)
accelerator.register_for_checkpointing(monitor)
step = 0
if (RUN / "state").exists():
    accelerator.load_state(RUN / "state")
    step = SAVED
monitor.step(model, step)
for batch in chain.from_iterable(repeat(loader)):  # epoch after epoch
    with accelerator.accumulate(model):
        loss = model(input_ids=batch, labels=batch).loss
        accelerator.backward(loss)
        optimizer.step()
        optimizer.zero_grad()
    if not accelerator.sync_gradients:
        continue
    step += 1
    accelerator.log({"loss": loss.item()}, step=step)
    monitor.step(model, step)
    if step == SAVED:
        accelerator.save_state(RUN / "state")
    if step == STEPS or monitor.should_stop:
        break
monitor.close()
accelerator.end_training()
print(f"checks, alerts and settings: {RUN}/sigma/record.jsonl")
print(f"metrics, beside the loss, for TensorBoard: {RUN}/logs")
