"""The monitor in a plain PyTorch loop: a fine-tune that collapses, and is left when it does.

Run: python examples/plain_pytorch.py
"""

from pydoc_data.topics import topics

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from sigma_monitor import ProbeSet, SigmaMonitor

PRETRAINING, STEPS = 150, 120

torch.manual_seed(0)
data = torch.tensor(list("\n".join(topics.values()).encode()[:200_000]))
blocks = data[: len(data) // 64 * 64].view(-1, 64)
train, held_out = blocks[:-128], blocks[-128:]
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=256,
        hidden_size=48,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)


def train_step() -> None:
    batch = train[torch.randint(len(train), (16,))]
    model(input_ids=batch, labels=batch).loss.backward()
    optimizer.step()
    optimizer.zero_grad()


for _ in range(PRETRAINING):
    train_step()

monitor = SigmaMonitor(
    ProbeSet.from_tensors({"input_ids": held_out}),
    every=4,
    max_overhead=None,  # a check at every fourth step, whatever it costs here
    max_steps=STEPS,
    baseline="start",  # the model was trained before: its own start is the reference
    stop_on_collapse=True,
    output_dir="runs/plain",
)
monitor.step(model, 0)
for step in range(1, STEPS + 1):
    if step == STEPS // 2:
        optimizer.param_groups[0]["lr"] *= 100
    train_step()
    monitor.step(model, step)
    if monitor.should_stop:
        break
monitor.close()
print(f"left after step {step}: {monitor.stop_reason}")
