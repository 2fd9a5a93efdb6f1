"""The one added line, in a Trainer that trains a small model from scratch on bytes.

Run: python examples/trainer.py
"""

from pydoc_data.topics import topics

from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

from sigma_monitor import SigmaCallback

data = "\n".join(topics.values()).encode()
blocks = [list(data[start : start + 64]) for start in range(0, 200_000, 64)]
examples = [{"input_ids": block, "labels": block} for block in blocks]

config = LlamaConfig(
    vocab_size=256,
    hidden_size=48,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
)
trainer = Trainer(
    LlamaForCausalLM(config),
    TrainingArguments(
        "runs/trainer",
        max_steps=100,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        logging_steps=20,
        report_to="none",
        save_strategy="no",
    ),
    train_dataset=examples[:-300],
    eval_dataset=examples[-300:],
    callbacks=[SigmaCallback()],
)
trainer.train()
print("checks, alerts and settings: runs/trainer/sigma/record.jsonl")
