"""The monitored training is, bit by bit, the training without the monitor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import TrainerCallback

from sigma_monitor import SigmaCallback
from tests.compatibility import shows
from tests.integrations.bitwise import differences, remains
from tests.integrations.hosts import eager, make_trainer, record_of
from tests.integrations.models import (
    Letters,
    SmallForCausalLM,
    lora,
    tiny_bert,
    tiny_gpt2,
    tiny_llama,
    tiny_t5,
)
from tests.integrations.other_models import (
    SAMPLES,
    SIZE,
    data,
    image_embeddings,
    pairs,
    tiny_clip,
    tiny_mae,
    tiny_resnet,
    tiny_vit,
    tiny_wav2vec2,
    tiny_whisper,
)

IMAGE = (3, SIZE, SIZE)
EAGER_CHECKS = 11  # before the first step, and every third of 30


@dataclass(frozen=True)
class Case:
    """A training, and what the monitor is asked to do in it."""

    model: Callable[[], nn.Module] = tiny_llama
    arguments: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # of the callback
    every_check_fails: bool = False


def raising_embed_fn(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Goes through part of the model, draws, and fails."""
    model(input_ids=batch["input_ids"])
    torch.rand(5)
    raise RuntimeError("cannot embed")


def hooked_llama() -> nn.Module:
    """A hook of the user's that was never meant for evaluation mode."""
    model = tiny_llama()

    def training_only(module: nn.Module, inputs: Any, output: Any) -> None:
        if not module.training:
            torch.rand(3)
            raise RuntimeError("no evaluation mode here")

    model.model.layers[0].register_forward_hook(training_only)
    return model


def raising_encoder(texts: list[str]) -> Tensor:
    """Draws, and fails."""
    torch.rand(5)
    raise RuntimeError("cannot embed")


def writing(**options: Any) -> dict[str, Any]:
    """The generation channel at every check."""
    return {
        "channels": ("representation", "generation"),
        "tokenizer": Letters(),
        "generation": {"every": 1, "examples": 8, "new_tokens": 4},
        **options,
    }


CASES = {
    "attention_dropout": Case(),
    "explicit_dropout": Case(model=tiny_gpt2),
    "batch_norm": Case(model=lambda: SmallForCausalLM("norm")),
    "frozen_batch_norm": Case(model=lambda: SmallForCausalLM("frozen_norm")),
    "draws_in_eval_mode": Case(model=lambda: SmallForCausalLM("draws")),
    "gradient_accumulation": Case(arguments={"gradient_accumulation_steps": 2}),
    "gradient_checkpointing": Case(arguments={"gradient_checkpointing": True}),
    "evaluation": Case(arguments={"eval_strategy": "steps", "eval_steps": 4}),
    "evaluation_at_checks": Case(
        arguments={"eval_strategy": "steps", "eval_steps": 3, "eval_on_start": True}
    ),
    "bf16_autocast": Case(arguments={"bf16": True}),
    "logging_every_step": Case(arguments={"logging_steps": 1, "logging_first_step": True}),
    "probe_raises_in_embed_fn": Case(
        options={"embed_fn": raising_embed_fn}, every_check_fails=True
    ),
    "probe_raises_in_forward": Case(
        model=lambda: SmallForCausalLM("raises"), every_check_fails=True
    ),
    "probe_raises_in_a_hook_of_the_user": Case(model=hooked_llama, every_check_fails=True),
    "lora": Case(model=lora),
    "lora_checkpointed": Case(model=lora, arguments={"gradient_checkpointing": True}),
    "dynamic_rope": Case(
        model=lambda: tiny_llama(rope_scaling={"rope_type": "dynamic", "factor": 2.0})
    ),
    "encoder_decoder": Case(model=tiny_t5),
    "encoder": Case(model=tiny_bert),
    "images": Case(model=tiny_vit, arguments=data(pixel_values=IMAGE)),
    "images_convolutional": Case(model=tiny_resnet, arguments=data(pixel_values=IMAGE)),
    "images_masked_by_drawing": Case(model=tiny_mae, arguments=data(pixel_values=IMAGE)),
    "sound": Case(model=tiny_wav2vec2, arguments=data(input_values=(SAMPLES,))),
    "sound_encoder_decoder": Case(model=tiny_whisper, arguments=data(4, input_features=(8, 32))),
    "images_and_texts_by_embed_fn": Case(
        model=tiny_clip,
        arguments={**data(pixel_values=IMAGE, input_ids=(8,)), "data_collator": pairs},
        options={"embed_fn": image_embeddings},
    ),
    "sampler_without_a_seed": Case(
        arguments={"accelerator_config": {"use_seedable_sampler": False}}
    ),
    "several_layers": Case(options={"layers": ["last", 0, "model.embed_tokens"]}),
    "writing": Case(options=writing()),
    "writing_with_dropout": Case(model=tiny_gpt2, options=writing()),
    "writing_lora": Case(model=lora, options=writing()),
    "writing_bf16": Case(arguments={"bf16": True}, options=writing()),
    "writing_checkpointed": Case(arguments={"gradient_checkpointing": True}, options=writing()),
    "writing_of_a_model_that_draws": Case(
        model=lambda: SmallForCausalLM("draws"), options=writing()
    ),
    "writing_with_frozen_batch_norm": Case(
        model=lambda: SmallForCausalLM("frozen_norm"), options=writing()
    ),
    "writing_with_an_encoder_that_raises": Case(options=writing(encoder=raising_encoder)),
}

CALLBACKS = {"every_3": eager, "default": SigmaCallback}


class Modes(TrainerCallback):
    """What others find at their hooks: who is in training mode."""

    def __init__(self) -> None:
        self.found: list[tuple[bool, ...]] = []

    def on_step_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
    ) -> None:
        self.found.append(tuple(module.training for module in model.modules()))

    on_step_end = on_step_begin


def train(case: Case, output_dir: Path, *callbacks: TrainerCallback) -> dict[str, Any]:
    modes = Modes()
    trainer = make_trainer(output_dir, *callbacks, modes, model=case.model(), **case.arguments)
    trainer.train()
    return {**remains(trainer), "modes_at_hooks": modes.found}


@cache
def unmonitored(name: str) -> dict[str, Any]:
    with TemporaryDirectory() as folder:
        return train(CASES[name], Path(folder))


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("callback", CALLBACKS)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=shows("Trainer", "same weights", case=name.replace("_", " ")))
        for name in CASES
    ],
)
def test_training_is_bitwise_what_it_is_without_the_monitor(
    name: str, callback: str, tmp_path: Path
) -> None:
    case = CASES[name]
    watcher = CALLBACKS[callback](**case.options)
    assert differences(unmonitored(name), train(case, tmp_path, watcher)) == []
    # The comparison says something only if the monitor did, or tried, its work.
    assert watcher.active
    if case.every_check_fails:
        assert watcher.monitor.failures >= 2
        assert watcher.monitor.checks == 0
    else:
        expected = EAGER_CHECKS if callback == "every_3" else 2
        assert watcher.monitor.failures == 0
        snapshots = record_of(tmp_path).snapshots
        assert len(snapshots) == watcher.monitor.checks >= expected
        writes = "generation" in case.options.get("channels", ())
        fails = case.options.get("encoder") is raising_encoder
        assert all(bool(snapshot.generation) is (writes and not fails) for snapshot in snapshots)


def test_loss_records_are_there_to_be_compared() -> None:
    losses = unmonitored("attention_dropout")["losses"]
    assert [entry["step"] for entry in losses] == [5, 10, 15, 20, 25, 30]
    assert {"loss", "grad_norm", "learning_rate", "epoch", "step"} == set(losses[0])
    evaluations = unmonitored("evaluation")["evaluations"]
    assert [step for step, _ in evaluations] == [4, 8, 12, 16, 20, 24, 28, 30]


def test_some_modules_are_found_in_evaluation_mode() -> None:
    after_an_evaluation, *_ = unmonitored("evaluation_at_checks")["modes_at_hooks"]
    assert not any(after_an_evaluation)
    for modes in unmonitored("frozen_batch_norm")["modes_at_hooks"][1:]:
        assert modes.count(False) == 1


@pytest.mark.parametrize("name", ["bf16_autocast", "gradient_accumulation", "explicit_dropout"])
def test_the_cases_are_different_trainings(name: str) -> None:
    assert differences(unmonitored(name)["losses"], unmonitored("attention_dropout")["losses"])


@pytest.mark.parametrize("callback", CALLBACKS)
def test_frozen_batch_norm_keeps_its_statistics_and_its_mode(callback: str, tmp_path: Path) -> None:
    model = SmallForCausalLM("frozen_norm")
    norm = model.body.norm
    norm.running_mean.fill_(0.25)
    make_trainer(tmp_path, CALLBACKS[callback](), model=model).train()
    assert not norm.training
    assert model.body.dropout.training
    assert norm.num_batches_tracked == 0
    assert torch.equal(norm.running_mean, torch.full((32,), 0.25))


class OneDraw(TrainerCallback):
    """What a careless monitor would do: one number from the global generator, once."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 10:
            torch.rand(1)


class OneForward(TrainerCallback):
    """A forward in training mode that forgets to put the generator back."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step == 10:
            with torch.no_grad():
                model(input_ids=torch.zeros(1, 8, dtype=torch.long))


@pytest.mark.parametrize("careless", [OneDraw, OneForward])
def test_the_comparison_notices_a_careless_monitor(
    careless: type[TrainerCallback], tmp_path: Path
) -> None:
    found = differences(
        unmonitored("attention_dropout"), train(CASES["attention_dropout"], tmp_path, careless())
    )
    assert "/torch" in found
    assert any(path.startswith("/parameters") for path in found)
    assert any(path.startswith("/losses") for path in found)


def test_differences_sees_one_ulp_a_type_and_a_missing_key() -> None:
    one = {"a": [torch.ones(2), 0.1], "b": {"c": float("nan")}}
    same = {"a": [torch.ones(2), 0.1], "b": {"c": float("nan")}}
    assert differences(one, same) == []
    nudged = {"a": [torch.nextafter(torch.ones(2), torch.zeros(2)), 0.1], "b": {"c": float("nan")}}
    assert differences(one, nudged) == ["/a/0"]
    assert differences(one, {"a": [torch.ones(2), 0.1 + 1e-16], "b": {"c": 1.0}}) == [
        "/a/1",
        "/b/c",
    ]
    assert differences({"a": 1}, {"a": True}) == ["/a: int and bool"]
    assert differences({"a": 1}, {}) == [": keys ['a']"]
