"""`SigmaCallback` in TRL's SFT, DPO and GRPO Trainers, which are left as they are."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import datasets
import pytest
import torch

from tests.compatibility import shows
from tests.integrations.bitwise import differences, remains
from tests.integrations.hosts import (
    LearningRateJump,
    Listener,
    eager,
    events_of,
    expected_metrics,
    our_warnings,
    record_of,
    sigma_entries,
)
from tests.integrations.trl_hosts import examples, make_trl, own_metrics, words_tokenizer

pytest.importorskip("trl", reason="the extra trl is not installed")

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {}),
    "sft_packed": ("sft", {"packing": True, "max_length": 16}),
    "sft_lora": ("sft", {"lora": True}),
    "dpo": ("dpo", {}),
    "dpo_lora": ("dpo", {"lora": True}),
    "grpo": ("grpo", {}),
    "grpo_lora": ("grpo", {"lora": True, "beta": 0.1, "gradient_accumulation_steps": 2}),
}


def each_case(demand: str) -> pytest.MarkDecorator:
    marked = [
        pytest.param(name, marks=shows("TRL", demand, case=name.replace("_", " ")))
        for name in CASES
    ]
    return pytest.mark.parametrize("name", marked)


@cache
def trained(name: str, *, monitored: bool) -> Any:
    """A training, its remains taken at once: what comes after draws random numbers too."""
    kind, options = CASES[name]
    with TemporaryDirectory() as folder:
        listener = Listener()
        callbacks = [listener, eager()] if monitored else []
        trainer = make_trl(kind, Path(folder), *callbacks, **options)
        trainer.train()
        found = remains(trainer) | {"losses": own_metrics(trainer.state.log_history)}
        wanted = expected_metrics(Path(folder)) if monitored else []
        return found, trainer.state.log_history, listener.sigma, wanted


@each_case("same weights")
def test_weights_generators_and_own_metrics_are_bitwise_the_same(name: str) -> None:
    plain, monitored = (trained(name, monitored=m)[0] for m in (False, True))
    assert differences(plain, monitored) == []
    assert plain["losses"]


@each_case("same numbers")
def test_metrics_come_once_to_every_logger(name: str) -> None:
    _, history, heard, wanted = trained(name, monitored=True)
    assert [step for step, _ in wanted] == [0, 3, 6, 9, 12]
    assert sigma_entries(history) == wanted
    assert heard == wanted


def test_own_metrics_of_trl_are_not_in_our_records() -> None:
    for name in CASES:
        _, history, _, _ = trained(name, monitored=True)
        ours = [entry for entry in history if "sigma/status" in entry]
        assert {k for e in ours for k in e if not k.startswith("sigma/")} <= {"epoch", "step"}


def first_probe(callback: Any) -> list[int]:
    tensors = callback.monitor.probes.tensors
    return tensors["input_ids"][0][tensors["attention_mask"][0] == 1].tolist()


def probed(kind: str, folder: Path, **options: Any) -> Any:
    callback = eager()
    make_trl(kind, folder, callback, max_steps=1, **options).train()
    assert callback.active
    return callback


def test_a_preference_is_probed_by_its_prompt_and_the_chosen_answer(tmp_path: Path) -> None:
    callback = probed("dpo", tmp_path)
    ids = first_probe(callback)
    rows, tokenizer = examples("dpo"), words_tokenizer()
    chosen = [
        tokenizer(row["prompt"])["input_ids"] + tokenizer(row["chosen"] + "<eos>")["input_ids"]
        for row in rows
    ]
    assert ids in chosen
    assert len(callback.monitor.probes) == len(rows)
    assert callback.monitor.last_snapshot.loss is not None


def test_the_prompts_of_grpo_are_probed(tmp_path: Path, caplog: Any) -> None:
    callback = probed("grpo", tmp_path, held_out=examples("grpo", 8, seed=1))
    texts = examples("grpo", 8, seed=1)["prompt"]
    assert first_probe(callback) in words_tokenizer()(list(texts))["input_ids"]
    assert callback.monitor.probes.held_out
    assert our_warnings(caplog) == []


def test_of_long_conversations_the_end_is_probed(tmp_path: Path) -> None:
    common = " ".join(["w0"] * 200)
    chats = [
        [{"role": "system", "content": common}, {"role": "user", "content": text}]
        for text in examples("grpo")["prompt"]
    ]
    data = datasets.Dataset.from_dict({"prompt": chats})
    callback = probed("grpo", tmp_path, train=data)
    ids = first_probe(callback)
    assert len(ids) == 128
    ends = [words_tokenizer()(chat[1]["content"])["input_ids"][-4:] for chat in chats]
    assert ids[-4:] in ends


def test_a_stream_of_prompts_turns_the_checks_off_and_says_what_to_pass(
    tmp_path: Path, caplog: Any
) -> None:
    callback = eager()
    stream = examples("grpo").to_iterable_dataset()
    trainer = make_trl("grpo", tmp_path, callback, train=stream, max_steps=1)
    trainer.train()
    assert trainer.state.global_step == 1
    assert (callback.active, callback.monitor.checks, callback.monitor.failures) == (True, 0, 0)
    assert "Pass SigmaCallback(probes=" in our_warnings(caplog)[0]


@shows("TRL", "stopped")
@pytest.mark.parametrize("kind", ["sft", "dpo", "grpo"])
def test_a_collapse_ends_the_training(kind: str, tmp_path: Path) -> None:
    callback = eager(every=1, stop_on_collapse=0.9, baseline="start", detector="sensitive")
    jump = LearningRateJump(4, factor=300.0)
    trainer = make_trl(kind, tmp_path, jump, callback, max_steps=60)
    trainer.train()
    assert callback.monitor.should_stop, callback.monitor.last_snapshot
    assert 4 < trainer.state.global_step < 60
    assert record_of(tmp_path).alerts[-1]["kind"] == "STOPPED"


@shows("TRL", "resumed")
@pytest.mark.parametrize("kind", ["dpo", "grpo"])
def test_a_resumed_run_goes_on(kind: str, tmp_path: Path) -> None:
    arguments = {"save_strategy": "steps", "save_steps": 6}
    make_trl(kind, tmp_path, eager(), max_steps=6, **arguments).train()
    trainer = make_trl(kind, tmp_path, eager(), **arguments)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert [e["step"] for e in events_of(tmp_path, "resumed")] == [6]
    assert [s.step for s in record_of(tmp_path).snapshots] == [0, 3, 6, 9, 12]
    assert torch.isfinite(trainer.model.model.norm.weight).all()
