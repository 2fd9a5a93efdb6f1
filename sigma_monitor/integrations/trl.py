"""`SigmaGRPOCallback`: the monitor in TRL's `GRPOTrainer`, which samples text anyway."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from sigma_monitor.errors import InputError, described
from sigma_monitor.generation.completions import Completion, CompletionProbe, grouped
from sigma_monitor.integrations.harmless import agreed, harmless
from sigma_monitor.integrations.transformers import SigmaCallback
from sigma_monitor.monitor.options import generation_options
from sigma_monitor.probing import EncoderSpec, ProbeSet
from sigma_monitor.ranks import exchanged, is_main
from sigma_monitor.snapshot import Snapshot

__all__ = ["SigmaGRPOCallback"]

_logger = logging.getLogger("sigma_monitor")

_NAME = "sigma_monitor"  # among the reward functions


class SigmaGRPOCallback(SigmaCallback):
    """`SigmaCallback` that is also a reward function without a say, to read what GRPO samples.

        sigma = SigmaGRPOCallback()
        GRPOTrainer(model, reward_funcs=[my_reward, sigma], callbacks=[sigma], ...)

    Its reward is `None` for every completion: TRL leaves it out, and the training is bitwise what
    it would be without. The generation channel measures the completions instead of letting the
    model write more: their spectrum is watched; distinct-n, and how much the completions of one
    prompt differ, are logged beside it, the latter as `sigma/generation/group_...`. They are of the
    latest training batches, so up to some steps older than the weights that are checked.
    Completions of an evaluation are left out.

    `reward_weights` of the Trainer needs one entry for it, of any value.

    Args:
        probes: The probe set of the representation; None takes the prompts of the Trainer's data.
        encoder: As of `SigmaMonitor`.
        generation: Keyword arguments of `CompletionProbe`: `every` (checks), `prompts`,
            `new_tokens`.
        **options: As of `SigmaCallback`, but for `channels`, which are both.

    Attributes:
        seen: Completions that were handed over on this process.

    Raises:
        InputError: On an option that cannot be used.
    """

    __name__ = _NAME  # under which TRL logs it

    def __init__(
        self,
        probes: ProbeSet | None = None,
        *,
        encoder: EncoderSpec = "hashing",
        generation: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if "channels" in options:
            raise InputError(
                f"channels={options['channels']!r}: here they are both. For the representation "
                "alone use SigmaCallback."
            )
        super().__init__(probes, **options)
        chosen = generation_options(generation)
        ridge = self.monitor.instrument.relative_ridge
        try:
            self._probe = CompletionProbe(encoder=encoder, relative_ridge=ridge, **chosen)
        except TypeError as error:
            raise InputError(
                f"generation={chosen!r}: {error}. Its options are every, prompts, new_tokens."
            ) from error
        self.monitor.instrument.writing_probe = self._probe
        self.seen = 0
        self._batches: deque[list[Completion]] = deque()  # that no check has had
        self._told_failure = self._told_unused = False

    def __call__(
        self,
        prompts: Sequence[Any],
        completions: Sequence[Any] = (),
        completion_ids: Sequence[Sequence[int]] | None = None,
        **_: Any,
    ) -> list[None]:
        """The reward function: keeps the completions, and has no opinion."""
        try:
            if self.active and not self._evaluates():
                self._keep(prompts, completion_ids)
        except Exception as error:
            if not self._told_failure:
                self._told_failure = True
                _logger.warning(
                    "sigma_monitor: completions cannot be read (%s); training goes on, and the "
                    "generation channel is without them",
                    described(error),
                )
        return [None] * len(prompts)

    def _keep(self, prompts: Sequence[Any], completion_ids: Sequence[Sequence[int]] | None) -> None:
        if completion_ids is None:
            raise InputError("the Trainer gives no completion_ids: use a newer TRL.")
        read = self._probe.new_tokens
        batch = [
            Completion(_text(prompt), tuple(int(i) for i in ids[:read]))
            for prompt, ids in zip(prompts, completion_ids, strict=True)
        ]
        self.seen += len(batch)
        self._batches.append(batch)
        # The oldest are not needed where the others hold enough prompts.
        while sum(len(grouped(b)) for b in list(self._batches)[1:]) >= self._probe.prompts:
            self._batches.popleft()

    def _evaluates(self) -> bool:
        """Whether the Trainer samples for an evaluation, as it tells that itself."""
        trainer = self._attached()
        return trainer is not None and trainer.model is not None and not trainer.model.training

    @agreed
    def _begin(self, args: TrainingArguments, state: TrainerState) -> None:
        super()._begin(args, state)
        self.seen = 0
        self._batches.clear()
        functions = getattr(self._attached(), "reward_funcs", [])
        if functions and all(function is self for function in functions) and is_main():
            _logger.warning(
                "sigma_monitor: SigmaGRPOCallback is the only reward function and gives no reward, "
                "so there is nothing to learn from. Pass your own beside it in reward_funcs=."
            )

    def _measure(self, state: TrainerState, model: Any) -> Snapshot | None:
        monitor = self.monitor
        if monitor.enabled and not monitor.disabled and monitor.cadence.due(state.global_step):
            self._hand_over(state.global_step)
        return super()._measure(state, model)

    def _hand_over(self, step: int) -> None:
        """What all ranks kept to the probe: a prompt's completions may be on several of them."""
        if step > 0 and not self.seen and not self._told_unused:
            self._told_unused = True
            _logger.warning(
                "sigma_monitor: no completions have come by step %d, so the generation channel is "
                "empty. Pass the SigmaGRPOCallback in reward_funcs= too.",
                step,
            )
        kept = exchanged(list(self._batches))
        self._batches.clear()
        size = getattr(self._attached(), "num_generations", None)
        for parts in _newest_of_all(kept):
            batch = [completion for part in parts for completion in part]
            self._probe.offer(grouped(batch, size))

    @harmless
    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Take the mean of our rewards, of which there are none, out of TRL's log."""
        for entry in (logs, state.log_history[-1] if state.log_history else None):
            for name in [n for n in entry or {} if f"rewards/{_NAME}/" in n]:
                if entry is not None and entry[name] is None:
                    del entry[name]


def _newest_of_all(kept: Sequence[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Batch by batch over ranks, as far back as every rank goes."""
    common = min(len(batches) for batches in kept)
    return list(zip(*(batches[len(batches) - common :] for batches in kept), strict=True))


def _text(prompt: Any) -> str:
    """A prompt, or the words of a conversation: what else is in it may print its address."""
    if isinstance(prompt, str):
        return prompt
    return "\n".join(_words(message.get("content")) for message in prompt)


def _words(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(str(part.get("text", "")) for part in content or [])
