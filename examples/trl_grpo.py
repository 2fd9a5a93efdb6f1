"""GRPO with TRL on a small model from scratch: what it samples anyway is watched.

Run: python examples/trl_grpo.py   (needs trl)
"""

import random

from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from sigma_monitor.integrations.trl import SigmaGRPOCallback
from sigma_monitor.sinks import read_record

words = ["<pad>", "<eos>", *(f"w{i}" for i in range(60))]
backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, "<pad>"))
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", unk_token="<pad>"
)
draw = random.Random(0)
prompts = [" ".join(draw.choices(words[2:], k=6)) for _ in range(256)]
model = LlamaForCausalLM(
    LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        eos_token_id=1,
        pad_token_id=0,
    )
)


def short_words(completions, **_):
    """A cheap reward, which one word repeated serves best."""
    return [sum(word in ("w1", "w2", "w3") for word in text.split()) / 8 for text in completions]


sigma = SigmaGRPOCallback(every=2, max_overhead=None, baseline="start", generation={"prompts": 8})
trainer = GRPOTrainer(
    model,
    reward_funcs=[short_words, sigma],
    args=GRPOConfig(
        "runs/trl_grpo",
        max_steps=40,
        per_device_train_batch_size=32,
        num_generations=8,
        max_completion_length=8,
        learning_rate=1e-2,
        logging_steps=20,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
    ),
    train_dataset=Dataset.from_dict({"prompt": prompts[32:]}),
    eval_dataset=Dataset.from_dict({"prompt": prompts[:32]}),
    processing_class=tokenizer,
    callbacks=[sigma],
)
trainer.train()
for check in read_record("runs/trl_grpo/sigma/record.jsonl").snapshots:
    if check.generation:
        rank = check.generation["effective_rank"]
        group = check.generation["group_effective_rank"]
        print(
            f"step {check.step:3}: rank of the text {rank.value:.1f} [{rank.low:.1f}, "
            f"{rank.high:.1f}], of a prompt's 8 completions {group.value:.1f}"
        )
print("status:", sigma.monitor.status.name)
