"""`SigmaGRPOCallback`: a reward function without a say, and a generation channel for nothing."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from sigma_monitor.errors import InputError
from sigma_monitor.generation.completions import grouped
from sigma_monitor.integrations.trl import SigmaGRPOCallback
from sigma_monitor.probing import Writer
from sigma_monitor.snapshot import TEXT_RANK
from tests.compatibility import shows
from tests.integrations.bitwise import differences, remains
from tests.integrations.grpo_ranks import EVERY, PROMPTS, STEPS, WORLD
from tests.integrations.hosts import (
    Listener,
    events_of,
    expected_metrics,
    our_warnings,
    record_of,
    sigma_entries,
)
from tests.integrations.trl_hosts import examples, make_trl, own_metrics, variety
from tests.processes import reports

pytest.importorskip("trl", reason="the extra trl is not installed")

# Each batch is of one prompt, of 4 completions; a reading of 3 prompts.
READS = {"prompts": 3}
CASE = "grpo, its completions read"  # on the page on compatibility
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "accumulation": {"gradient_accumulation_steps": 2},
    "reused_batches": {"num_iterations": 2, "steps_per_generation": 2},
    "evaluation": {"eval_strategy": "steps", "eval_steps": 4},
    "each_reward_normalized": {"multi_objective_aggregation": "normalize_then_sum"},
}


def reader(**options: Any) -> SigmaGRPOCallback:
    return SigmaGRPOCallback(**{"every": 3, "max_overhead": None, "generation": READS, **options})


def grpo(folder: Path, sigma: SigmaGRPOCallback, *callbacks: Any, **options: Any) -> Any:
    rewards = options.pop("rewards", (variety, sigma))
    return make_trl("grpo", folder, *callbacks, sigma, rewards=rewards, **options)


@cache
def trained(name: str, *, monitored: bool) -> Any:
    options = dict(CASES[name])
    if "eval_strategy" in options:
        options["held_out"] = examples("grpo", 8, seed=1)
    with TemporaryDirectory() as folder:
        listener, sigma = Listener(), reader()
        if monitored:
            trainer = grpo(Path(folder), sigma, listener, **options)
        else:
            trainer = make_trl("grpo", Path(folder), listener, **options)
        trainer.train()
        left = remains(trainer) | {"losses": own_metrics(trainer.state.log_history)}
        found = expected_metrics(Path(folder)) if monitored else []
        return left, trainer.state.log_history, listener, found, sigma


@shows("TRL", "same weights", case=CASE)
@pytest.mark.parametrize("name", CASES)
def test_training_and_the_log_of_trl_are_bitwise_the_same(name: str) -> None:
    plain, monitored = (trained(name, monitored=m)[0] for m in (False, True))
    assert differences(plain, monitored) == []
    assert any("rewards/variety/mean" in entry for entry in plain["losses"])


@shows("TRL", "same numbers", case=CASE)
@pytest.mark.parametrize("name", CASES)
def test_metrics_come_once_and_its_rewards_never(name: str) -> None:
    _, history, listener, wanted, _ = trained(name, monitored=True)
    assert sigma_entries(history) == listener.sigma == wanted
    logged = {name for _, logs in listener.heard for name in logs}
    assert [name for name in logged if "rewards/sigma" in name] == []


def test_the_generation_channel_measures_the_completions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: Any) -> None:
        raise AssertionError("it samples")

    monkeypatch.setattr(Writer, "write", write)
    kept: list[tuple[int, list[str]]] = []

    def keeping(completions: list[str], trainer_state: Any, **_: Any) -> list[None]:
        kept.append((trainer_state.global_step, list(completions)))
        return [None] * len(completions)

    class Texts(TrainerCallback):
        """The texts of each reading, by step."""

        def __init__(self, sigma: SigmaGRPOCallback) -> None:
            self.read: dict[int, tuple[str, ...]] = {}
            reading = sigma._probe.read

            def noted(*args: Any) -> Any:
                writing = reading(*args)
                if writing is not None:
                    self.read[sigma.monitor.cadence.last_step or 0] = writing.texts
                return writing

            sigma._probe.read = noted  # type: ignore[method-assign]

    sigma = reader()
    texts = Texts(sigma)
    grpo(tmp_path, sigma, rewards=(variety, keeping, sigma)).train()
    generated = {s.step: s.generation for s in record_of(tmp_path).snapshots}
    assert [step for step, found in generated.items() if found] == [3, 6, 9, 12]
    assert generated[0] == {}  # nothing was sampled before the first step
    assert "output_entropy" not in generated[3]
    assert 1 <= generated[3]["group_effective_rank"].value <= 4
    assert generated[3]["group_unique"].kind == "sampling"
    by_step = dict(kept)
    # The check after step 6 has what the weights of steps 3, 4 and 5 wrote.
    assert list(texts.read.values())[1] == tuple(t for step in (3, 4, 5) for t in by_step[step])
    assert sigma.monitor.status.name in ("WARMUP", "HEALTHY")


def test_completions_of_an_evaluation_are_left_out() -> None:
    sigma = trained("evaluation", monitored=True)[4]
    assert sigma.seen == 12 * 4  # and not those of 3 evaluations


@shows("TRL", "stopped", case=CASE)
def test_text_that_narrows_raises_an_alert_and_stops(tmp_path: Path) -> None:
    class Narrow(TrainerCallback):
        """Writes one word from step 8 on."""

        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any):
            if state.global_step >= 8:
                with torch.no_grad():
                    model.lm_head.weight.zero_()
                    model.lm_head.weight[7] = 1e3 * model.model.norm.weight.sign()

    sigma = reader(every=3, baseline="start", stop_on_collapse=True)
    trainer = grpo(tmp_path, sigma, Narrow(), max_steps=60, learning_rate=1e-6)
    trainer.train()
    alerts = [a for a in record_of(tmp_path).alerts if a["channel"] == "generation"]
    assert {a["functional"] for a in alerts if a["kind"] != "BASELINE"} == {TEXT_RANK}
    assert trainer.state.global_step < 60, [a["kind"] for a in alerts]
    assert "COLLAPSED" in [a["kind"] for a in alerts]


@shows("TRL", "resumed", case=CASE)
def test_a_resumed_run_goes_on_from_its_baseline(tmp_path: Path) -> None:
    arguments = {"save_strategy": "steps", "save_steps": 6}
    grpo(tmp_path, reader(baseline="start"), max_steps=6, **arguments).train()
    sigma = reader(baseline="start")
    before = record_of(tmp_path)
    grpo(tmp_path, sigma, **arguments).train(resume_from_checkpoint=str(tmp_path / "checkpoint-6"))
    assert [e["step"] for e in events_of(tmp_path, "resumed")] == [6]
    watch = sigma.monitor._watch
    assert watch is not None
    assert watch.generation is not None
    baseline = watch.generation.series[TEXT_RANK].detector.baseline
    first = next(s.generation[TEXT_RANK].value for s in before.snapshots if s.generation)
    assert baseline is not None
    assert math.exp(baseline.log_value) == pytest.approx(first)


def test_forgetting_the_reward_function_is_said(tmp_path: Path, caplog: Any) -> None:
    trainer = grpo(tmp_path, reader(), rewards=(variety,), held_out=examples("grpo", 8))
    trainer.train()
    assert ["reward_funcs= too" in text for text in our_warnings(caplog)] == [True]


def test_no_other_reward_function_is_said_and_trains_nothing(tmp_path: Path, caplog: Any) -> None:
    sigma = reader()
    trainer = grpo(tmp_path, sigma, rewards=(sigma,), held_out=examples("grpo", 8), max_steps=2)
    before = trainer.model.model.norm.weight.clone()
    trainer.train()
    assert "the only reward function" in our_warnings(caplog)[0]
    assert torch.equal(trainer.model.model.norm.weight, before)


def test_completions_that_cannot_be_read_are_said_once_and_end_nothing(
    tmp_path: Path, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise KeyError("prompt")

    monkeypatch.setattr("sigma_monitor.integrations.trl._text", fails)
    sigma = reader()
    trainer = grpo(tmp_path, sigma, held_out=examples("grpo", 8))
    trainer.train()
    assert trainer.state.global_step == 12
    assert sum("cannot be read (KeyError" in text for text in our_warnings(caplog)) == 1
    assert [s.step for s in record_of(tmp_path).snapshots] == [0, 3, 6, 9, 12]


def test_switched_off_it_keeps_nothing(tmp_path: Path) -> None:
    sigma = reader(enabled=False)
    grpo(tmp_path, sigma, max_steps=2).train()
    assert sigma.seen == 0
    assert not sigma._batches


@pytest.mark.long
@shows("TRL", "same weights", strategy="DDP, 2 processes", case=CASE)
def test_two_ranks_train_bitwise_as_without_and_each_reads_the_completions_of_both(
    tmp_path: Path,
) -> None:
    ranks = reports("tests.integrations.grpo_ranks", tmp_path, world=WORLD)
    for rank in ranks:
        alone, beside = rank["alone"], rank["beside"]
        assert alone["world"] == beside["world"] == WORLD
        for name in ("weights", "generator", "logged"):
            assert alone[name] == beside[name]
        assert beside["weights"] == ranks[0]["beside"]["weights"]
        assert beside["failures"] == 0
        assert beside["seen"] == STEPS * 2  # its own
        assert beside["texts"] == [0, *[PROMPTS * 4] * (STEPS // EVERY)]  # none before step 1
    snapshots = record_of(tmp_path / "watched").snapshots
    assert [snapshot.step for snapshot in snapshots] == list(range(0, STEPS + 1, EVERY))
    assert 1 <= snapshots[-1].generation["group_effective_rank"].value <= 4


def called(sigma: SigmaGRPOCallback, prompts: list[Any], first: int) -> list[None]:
    return sigma(
        prompts=prompts,
        completions=["x"] * len(prompts),
        completion_ids=[[first + i] for i in range(len(prompts))],
        trainer_state=None,
        log_extra=None,
        any_column=[1] * len(prompts),
    )


def test_what_a_prompt_has_on_several_processes_is_put_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two ranks with a prompt's four completions spread over both, one with a batch less kept."""
    ranks = [reader(), reader()]
    for batch in range(4):
        for rank, sigma in enumerate(ranks):
            prompts = [f"p{batch}"] * 2
            assert called(sigma, prompts, 10 * batch + 2 * rank) == [None, None]
    ranks[1]._batches.popleft()
    kept = [list(sigma._batches) for sigma in ranks]
    monkeypatch.setattr("sigma_monitor.integrations.trl.exchanged", lambda _: kept)
    ranks[0]._hand_over(4)
    read = [[tokens[0] for tokens in group] for group in ranks[0]._probe._waiting]
    assert read == [[10 * b + i for i in range(4)] for b in (2, 3)]


def test_no_more_batches_are_kept_than_a_reading_needs() -> None:
    sigma = reader()
    for batch in range(50):
        called(sigma, [f"a{batch}"] * 4 + [f"b{batch}"] * 4, batch)
    assert sum(len(grouped(batch)) for batch in sigma._batches) == 4  # 3 prompts, in whole batches


def test_conversations_are_told_apart_by_their_words() -> None:
    sigma = reader()
    asked = [
        [{"role": "user", "content": [{"type": "image", "image": object()}, {"text": word}]}]
        for word in ("one", "one", "two", "two")
    ]
    called(sigma, asked, 0)
    assert [len(group) for group in grouped(sigma._batches[0])] == [2, 2]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"channels": ("representation",)}, "channels="),
        ({"generation": {"temperature": 0.5}}, "temperature"),
        ({"generation": {"prompts": 1}}, "prompts=1"),
        ({"generation": {"encoder": "start"}}, "encoder"),
    ],
)
def test_options_that_cannot_be_used_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        SigmaGRPOCallback(**options)
