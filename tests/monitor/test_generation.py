"""The generation channel in the monitor: beside the representation, and never in its way."""

import functools
import json
import logging
import math
import random

import numpy as np
import pytest
import torch
from transformers import Trainer

from sigma_monitor import ProbeSet, SigmaMonitor, Status
from sigma_monitor.errors import InputError, RecordError
from sigma_monitor.monitor import RECORD
from sigma_monitor.probing import Writer
from sigma_monitor.probing.encoders import hashing_encoder
from sigma_monitor.reference import RunLineage
from sigma_monitor.sinks import JsonlSink, read_record
from tests.clock import stop_the_clock
from tests.compatibility import shows
from tests.integrations.bitwise import differences, remains
from tests.integrations.hosts import eager, make_trainer, record_of
from tests.integrations.models import Letters
from tests.monitor.test_monitor import Listener
from tests.probing.models import padded, tiny, token_ids

PROBES = ProbeSet.from_tensors({"input_ids": token_ids(16, 24)})
WRITES = {"every": 3, "new_tokens": 8, "examples": 12}
BOTH = ("representation", "generation")

_EXACT = ("distinct_1", "distinct_2", "compression_ratio", "repeated_4gram_share")
_WITH_INTERVAL = ("effective_rank", "log_det_per_dim", "output_entropy")
KEYS = {"participation_ratio", *_EXACT, *_WITH_INTERVAL}


class Failing:
    """An encoder that raises at some of its calls, counted from 1."""

    def __init__(self, *calls):
        self.calls, self.called = calls, 0
        self.inner = hashing_encoder()

    def __call__(self, texts):
        self.called += 1
        if not self.calls or self.called in self.calls:
            raise ConnectionResetError("no embeddings of text today")
        return self.inner.embed(texts)


class Keeping:
    """The hashing encoder, which keeps the texts of each call."""

    def __init__(self):
        self.texts = []
        self.inner = hashing_encoder()

    def __call__(self, texts):
        self.texts.append(list(texts))
        return self.inner.embed(texts)


def monitor(probes=PROBES, **options):
    generation = {**WRITES, **options.pop("generation", {})}
    defaults = {
        "every": 1,
        "max_overhead": None,
        "baseline": "start",
        "channels": BOTH,
        "tokenizer": Letters(),
        "sinks": [],
    }
    return SigmaMonitor(probes, **{**defaults, **options}, generation=generation)


def certain(model, factor=500.0):
    """The same hidden states, and hardly any entropy left."""
    with torch.no_grad():
        model.lm_head.weight.mul_(factor)


@pytest.fixture
def messages(caplog):
    caplog.set_level(logging.INFO, "sigma_monitor")
    return lambda: [record.getMessage() for record in caplog.records]


def generation_part(metrics):
    prefix = "sigma/generation/"
    return {k.removeprefix(prefix): v for k, v in metrics.items() if k.startswith(prefix)}


# --- metrics -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("every", "due"), [(3, [0, 3, 6]), (1, [*range(8)]), (9, [0])])
def test_metrics_are_there_at_the_checks_that_write_and_only_there(tmp_path, every, due):
    model, listener = tiny("llama"), Listener()
    sinks = [JsonlSink(tmp_path / RECORD), listener]
    watcher = monitor(generation={"every": every}, sinks=sinks)
    for step in range(8):
        watcher.step(model, step)
    watcher.close()
    assert watcher.failures == 0
    found = {s.step: generation_part(s.metrics()) for s in listener.snapshots()}
    assert list(found) == list(range(8))
    assert [step for step, metrics in found.items() if metrics] == due
    expected = KEYS | {f"{k}_{end}" for k in _WITH_INTERVAL for end in ("low", "high")}
    for step in due:
        assert found[step].keys() == expected
        for key in _WITH_INTERVAL:
            low, value, high = (found[step][f"{key}{end}"] for end in ("_low", "", "_high"))
            assert low <= value <= high
    record = read_record(tmp_path / RECORD)
    assert {s.step: generation_part(s.metrics()) for s in record.snapshots} == found


def test_metrics_are_of_what_the_model_writes():
    model, encoder = tiny("llama"), Keeping()
    found = monitor(encoder=encoder).check(model, 0).generation
    written = Writer(new_tokens=8, examples=12).write(model, PROBES)
    entropy = float(written.entropies.double().mean())
    assert found["output_entropy"].value == pytest.approx(entropy, rel=1e-12)
    assert encoder.texts[1:] == [[Letters().decode(row) for row in written.tokens.tolist()]]
    different = len({token for row in written.tokens.tolist() for token in row})
    assert found["distinct_1"].value == pytest.approx(different / 96)
    plain = monitor().check(model, 0).generation
    assert plain["effective_rank"] == found["effective_rank"]


@pytest.mark.parametrize("channels", [("representation",), ["representation"]])
def test_without_the_channel_nothing_is_written(channels, monkeypatch):
    monkeypatch.setattr(Writer, "write", None)
    snapshot = monitor(channels=channels).check(tiny("llama"), 0)
    assert snapshot.generation == {}
    assert generation_part(snapshot.metrics()) == {}


def test_the_channel_leaves_the_representation_as_it_is_measured():
    model = tiny("llama")
    with_text, without = (
        monitor(channels=channels).check(model, 0) for channels in (BOTH, ("representation",))
    )
    assert with_text.layers == without.layers
    assert with_text.loss == without.loss


@pytest.mark.parametrize(
    "options",
    [
        {"channels": "representation"},
        {"channels": ("generation",)},
        {"channels": ("representation", "loss")},
        {"channels": ()},
        {"generation": {"examples": 0}},
        {"generation": {"every": 0}},
        {"generation": {"unknown": 1}},
        {"encoder": 7},
        {"detector": {"generation": {"collapsed": 2.0}}},
        {"detector": {"generation": {"unknown": 2.0}}},
    ],
)
def test_options_that_cannot_be_used_are_refused(options):
    with pytest.raises(InputError):
        monitor(**options)


@pytest.mark.parametrize("name", ["encoder", "relative_ridge"])
def test_options_of_the_monitor_are_refused_among_those_of_the_channel(name):
    with pytest.raises(InputError):
        monitor(generation={name: "hashing"})


# --- alerts --------------------------------------------------------------------------------------


def lost(watcher, model, factor=500.0):
    """Checks in a row, the model certain of its text from step 4 on."""
    for step in range(16):
        if step == 4:
            certain(model, factor)
        watcher.step(model, step)
    return watcher


def told_by(listener, channel):
    return [a for a in listener.heard if getattr(a, "channel", "") == channel]


def test_a_model_that_grows_certain_of_its_text_is_told():
    model, listener = tiny("llama"), Listener()
    watcher = lost(monitor(generation={"every": 1}, sinks=[listener]), model, factor=50.0)
    told = told_by(listener, "generation")
    assert [a.kind for a in told] == ["BASELINE", "BASELINE", "WARNING", "COLLAPSED"]
    collapsed = told[-1]
    assert collapsed.functional == "output_entropy"
    assert collapsed.onset_step == 4
    assert collapsed.title == "sigma: the model's text has collapsed"
    assert 0.22 < collapsed.ratio < 0.3
    by_step = {s.step: s for s in listener.snapshots()}
    found = by_step[collapsed.step].generation["output_entropy"]
    assert (collapsed.value, collapsed.low, collapsed.high) == pytest.approx(
        (found.value, found.low, found.high)
    )
    # The hidden states are what they were: the other channel has nothing to say.
    assert {a.kind for a in listener.heard if getattr(a, "layer", None) == "last"} == {"BASELINE"}
    assert watcher.status is Status.COLLAPSED


def test_a_deep_fall_has_the_onset_of_a_shallow_one():
    model, listener = tiny("llama"), Listener()
    lost(monitor(generation={"every": 1}, sinks=[listener]), model, factor=500.0)
    collapsed = told_by(listener, "generation")[-1]
    assert (collapsed.kind, collapsed.functional) == ("COLLAPSED", "output_entropy")
    assert collapsed.onset_step == 4


def test_a_stop_comes_on_a_collapse_of_the_text_too():
    model = tiny("llama")
    watcher = lost(monitor(generation={"every": 1}, stop_on_collapse=True), model)
    assert watcher.should_stop
    assert watcher.stop_reason.startswith("COLLAPSED at step")


def quoted(texts, listener):
    return [t for t in texts if any(t in a.text for a in listener.heard if hasattr(a, "kind"))]


def test_texts_are_quoted_only_where_that_was_asked_for():
    for include in (False, True):
        model, listener, encoder = tiny("llama"), Listener(), Keeping()
        options = {"generation": {"every": 1}, "encoder": encoder, "include_examples": include}
        lost(monitor(sinks=[listener], **options), model)
        collapsed = told_by(listener, "generation")[-1]
        assert collapsed.kind == "COLLAPSED"
        written = {text for texts in encoder.texts for text in texts}
        own = [Letters().decode(row) for row in PROBES.tensors["input_ids"].tolist()]
        if include:
            for text in encoder.texts[collapsed.check][:3]:
                assert f"\u201c{text}\u201d" in collapsed.text
            assert encoder.texts[collapsed.check][3] not in collapsed.text
        else:
            assert quoted([*written, *own], listener) == []


def test_probe_examples_are_quoted_only_where_that_was_asked_for():
    own = [Letters().decode(row) for row in PROBES.tensors["input_ids"].tolist()]
    for include in (False, True):
        model, listener = tiny("llama"), Listener()
        watcher = monitor(sinks=[listener], include_examples=include)
        for step in range(8):
            if step == 2:
                with torch.no_grad():
                    model.model.norm.weight[3:] = 0.0  # of 16 directions
            watcher.step(model, step)
        alert = next(a for a in told_by(listener, "representation") if a.kind == "WARNING")
        assert len(alert.moved_examples) == 3
        expected = {own[i] for i in alert.moved_examples} if include else set()
        assert expected <= set(quoted(own, listener))
        assert bool(quoted(own, listener)) is include


class Unreadable(Letters):
    """Can read what a model writes, and not the probe examples."""

    def decode(self, ids, *, skip_special_tokens):
        if len(ids) > 8:
            raise UnicodeDecodeError("utf-8", b"", 0, 1, "no text")
        return super().decode(ids, skip_special_tokens=skip_special_tokens)


def test_an_alert_comes_without_quotes_where_they_cannot_be_read(tmp_path, messages):
    model, listener = tiny("llama"), Listener()
    watcher = monitor(tokenizer=Unreadable(), include_examples=True, output_dir=tmp_path)
    watcher.sinks = [JsonlSink(tmp_path / RECORD), listener]
    for step in range(16):
        if step == 2:
            with torch.no_grad():
                model.model.norm.weight[2:] = 0.0  # of 16 directions
        watcher.step(model, step)
    assert watcher.failures == 0
    kinds = [a.kind for a in told_by(listener, "representation")]
    assert kinds == ["BASELINE", "WARNING", "COLLAPSED"]
    assert sum("cannot be quoted" in message for message in messages()) == 1
    watcher.close()
    events = [e["event"] for e in read_record(tmp_path / RECORD).events]
    assert events.count("quotes_failed") == 1


# --- failures ------------------------------------------------------------------------------------


def test_a_missing_tokenizer_costs_the_channel_and_not_the_check(tmp_path, messages):
    model = tiny("llama")
    watcher = monitor(tokenizer=None, generation={"every": 2}, output_dir=tmp_path, sinks=None)
    for step in range(12):
        assert watcher.step(model, step).generation == {}
    watcher.close()
    assert (watcher.failures, watcher.checks, watcher.disabled) == (0, 12, False)
    assert watcher.status is Status.HEALTHY
    assert len(messages()) == 1
    assert "the generation channel failed at step 0" in messages()[0]
    assert "pass tokenizer=" in messages()[0]
    record = read_record(tmp_path / RECORD)
    failed = [e for e in record.events if e["event"] == "writing_failed"]
    assert [e["step"] for e in failed] == [0, 2, 4]  # and not tried again
    assert failed[0]["error"].startswith("InputError: the generation channel needs a tokenizer")
    assert [s.ratios["last"] for s in record.snapshots] == pytest.approx([1.0] * 12)


def test_an_encoder_that_raises_costs_the_channel_and_not_the_check(tmp_path, messages):
    model, encoder = tiny("llama"), Failing()
    watcher = monitor(encoder=encoder, output_dir=tmp_path, sinks=None)
    for step in range(20):
        watcher.step(model, step)
    watcher.close()
    assert (watcher.failures, watcher.checks) == (0, 20)
    assert encoder.called == 3
    assert len(messages()) == 1
    assert "ConnectionResetError: no embeddings of text today" in messages()[0]
    failed = [e for e in read_record(tmp_path / RECORD).events if e["event"] == "writing_failed"]
    assert [e["step"] for e in failed] == [0, 3, 6]


def test_a_channel_that_works_again_is_not_switched_off():
    model, encoder, listener = tiny("llama"), Failing(1, 2, 5, 6), Listener()
    watcher = monitor(encoder=encoder, generation={"every": 1}, sinks=[listener])
    for step in range(8):
        watcher.step(model, step)
    assert [s.step for s in listener.snapshots() if s.generation] == [2, 5, 6, 7]
    assert encoder.called == 9  # once more to identify it


def test_a_collapse_is_seen_beside_a_channel_that_fails():
    model, listener = tiny("llama"), Listener()
    watcher = monitor(encoder=Failing(), sinks=[listener])
    for step in range(16):
        if step == 6:
            with torch.no_grad():
                model.model.norm.weight[2:] = 0.0
        watcher.step(model, step)
    assert listener.alerts() == ["BASELINE", "WARNING", "COLLAPSED"]


def test_a_model_that_cannot_write_is_watched_on(messages):
    watcher = monitor(embed_fn=lambda model, batch: torch.eye(len(batch["input_ids"])))
    for step in range(4):
        watcher.step(tiny("bert"), step)
    assert (watcher.failures, watcher.checks) == (0, 4)
    assert "gives no logits" in messages()[0]


def test_logits_of_nan_are_no_writing_and_no_failure(messages):
    model, listener = tiny("llama"), Listener()
    watcher = monitor(generation={"every": 1}, sinks=[listener])
    for step in range(6):
        if step == 2:
            with torch.no_grad():
                kept = model.lm_head.weight.clone()
                model.lm_head.weight.fill_(math.nan)
        if step == 4:
            with torch.no_grad():
                model.lm_head.weight.copy_(kept)
        watcher.step(model, step)
    assert [s.step for s in listener.snapshots() if s.generation] == [0, 1, 4, 5]
    assert watcher.failures == 0
    assert messages() == []


def test_a_new_run_begins_with_a_channel_that_works():
    model, encoder = tiny("llama"), Failing(1, 2, 3)
    watcher = monitor(encoder=encoder, generation={"every": 1})
    for step in range(5):
        watcher.step(model, step)
    assert encoder.called == 3
    watcher.reset()
    assert watcher.step(model, 0).generation


def test_a_new_run_has_a_start_of_its_own():
    model, watcher = tiny("llama"), monitor(encoder="start", tokenizer=Words())
    names = []
    for _ in range(2):
        watcher.step(model, 0)
        names.append(watcher._watch.generation.latest_as_baselines()["reference"]["encoder"])
        wander(model, 0)
        watcher.reset()
    assert names[0] != names[1]


# --- the training is left as it was --------------------------------------------------------------


def train(steps, watcher=None):
    """A plain loop; what it leaves behind."""
    random.seed(7)
    np.random.seed(7)
    torch.manual_seed(7)
    model = tiny("gpt2", resid_pdrop=0.2, attn_pdrop=0.2).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps + 1):
        if step:
            ids = torch.randint(1, 50, (4, 9))
            optimiser.zero_grad()
            model(input_ids=ids, labels=ids).loss.backward()
            optimiser.step()
        if watcher is not None:
            watcher.step(model, step)
    return {
        "parameters": dict(model.named_parameters()),
        "gradients": {name: p.grad for name, p in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "optimizer": optimiser.state_dict(),
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }


class Words(Letters):
    """Goes both ways, as the start encoder needs it."""

    def __call__(self, texts, *, truncation, max_length):
        return {"input_ids": [[ord(c) % 49 + 1 for c in text][:max_length] for text in texts]}


@shows("plain PyTorch", "same weights", case="writing")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"generation": {"every": 1, "temperature": 0}},
        {"encoder": "start", "tokenizer": Words()},
        {"encoder": Failing()},
    ],
    ids=["sampling", "greedy", "start", "fails"],
)
def test_a_plain_training_is_bitwise_what_it_is_without_the_channel(options):
    watcher = monitor(**options)
    beside = train(8, watcher)
    assert (watcher.checks, watcher.failures) == (9, 0)
    fails = isinstance(options.get("encoder"), Failing)
    assert (
        bool(watcher._watch.generation.latest_as_baselines()) is not fails
    )  # or there was nothing to compare
    assert differences(train(8), beside) == []


class Drawing:
    """An encoder that draws, as a random projection made in each call would."""

    def __call__(self, texts):
        rows = np.random.rand(len(texts), 4) + torch.rand(len(texts), 4).numpy()
        return rows + random.random()


def test_an_encoder_that_draws_does_not_reach_the_training():
    watcher = monitor(encoder=Drawing(), generation={"every": 1})
    beside = train(4, watcher)
    assert differences(train(4), beside) == []


def test_an_encoder_gives_the_same_embeddings_at_every_check_although_it_draws():
    model, watcher = tiny("llama"), monitor(encoder=Drawing(), generation={"every": 1})
    one, two = (watcher.check(model, step).generation for step in (0, 1))
    assert one["effective_rank"] == two["effective_rank"]


def trained(folder, *callbacks, **options):
    trainer = make_trainer(folder, *callbacks, **options)
    trainer.train()
    return remains(trainer)


@shows("Trainer", "same weights", case="writing")
def test_a_trainer_trains_bitwise_as_without_the_channel(tmp_path):
    watcher = eager(channels=BOTH, tokenizer=Letters(), generation=WRITES)
    beside = trained(tmp_path / "watched", watcher)
    assert differences(trained(tmp_path / "alone"), beside) == []
    assert watcher.active
    snapshots = record_of(tmp_path / "watched").snapshots
    assert len(snapshots) == watcher.monitor.checks == 11
    # Checks at every third step, of which every third writes.
    assert [s.step for s in snapshots if s.generation] == [0, 9, 18, 27]
    assert watcher.monitor.failures == 0


def test_the_trainer_logs_the_metrics_and_gives_its_tokenizer(tmp_path):
    watcher = eager(channels=BOTH, generation=WRITES)
    kind = functools.partial(Trainer, processing_class=Letters())
    trainer = make_trainer(tmp_path, watcher, kind=kind, max_steps=10)
    trainer.train()
    assert watcher.monitor.instrument.tokenizer is trainer.processing_class
    logged = {
        entry["step"]: generation_part(entry)
        for entry in trainer.state.log_history
        if "sigma/ratio" in entry or "sigma/status" in entry
    }
    assert [step for step, metrics in logged.items() if metrics] == [0, 9]
    assert {s.step: generation_part(s.metrics()) for s in record_of(tmp_path).snapshots} == logged


# --- resuming ------------------------------------------------------------------------------------


def wander(model, step):
    """A training in which something happens: the weights move, and the text is lost half way."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01 * torch.randn(parameter.shape, generator=generator))
    if step == 12:
        certain(model)


def measured(snapshot):
    """All of a snapshot but the time."""
    body = snapshot.to_dict()
    return {k: v for k, v in body.items() if k not in ("time", "seconds", "overhead")}


@pytest.mark.parametrize("baseline", ["start", "plateau"])
@pytest.mark.parametrize("cut", [1, 5, 13, 19])
def test_a_resumed_run_goes_on_as_if_unbroken(baseline, cut):
    detector = {"warmup_checks": 2, "baseline_checks": 4}
    options = {
        "baseline": baseline,
        "generation": {"every": 2},
        "detector": {**detector, "generation": {"warmup_checks": 0, "baseline_checks": 2}},
    }
    model, one, two = tiny("llama"), Listener(), Listener()
    unbroken, resumed = monitor(sinks=[one], **options), None
    for step in range(28):
        wander(model, step)
        unbroken.step(model, step)
        if resumed is not None:
            resumed.step(model, step)
            assert resumed.state_dict()["watch"] == unbroken.state_dict()["watch"]
        if step == cut:
            state = json.loads(json.dumps(unbroken.state_dict(), allow_nan=False))
            resumed = monitor(sinks=[two], **options)
            resumed.load_state_dict(state)
            one.heard.clear()
    assert [measured(s) for s in one.snapshots()] == [measured(s) for s in two.snapshots()]
    alerts = [[a for a in listener.heard if hasattr(a, "kind")] for listener in (one, two)]
    assert alerts[0] == alerts[1]
    assert "COLLAPSED" in [a.kind for a in alerts[0]]
    assert {s.step % 2 for s in two.snapshots() if s.generation} == {0}


def test_the_start_encoder_is_another_after_a_resume_and_that_is_said(messages):
    model, listener = tiny("llama"), Listener()
    options = {"encoder": "start", "tokenizer": Words(), "generation": {"every": 1}}
    watcher = monitor(**options)
    for step in range(3):
        watcher.step(model, step)
    state = json.loads(json.dumps(watcher.state_dict()))
    same = monitor(**options)
    same.load_state_dict(state)
    same.step(model, 3)
    assert messages() == []  # the weights did not move in between
    wander(model, 4)
    resumed = monitor(sinks=[listener], **options)
    resumed.load_state_dict(state)
    for step in range(4, 8):
        resumed.step(model, step)
    assert len(messages()) == 1
    assert "the baseline of the generation channel begins anew at step 4" in messages()[0]
    assert [(a.channel, a.kind, a.step) for a in listener.heard if hasattr(a, "kind")] == [
        ("generation", "BASELINE", 4),
        ("generation", "BASELINE", 4),
    ]


# --- baselines of other runs ---------------------------------------------------------------------


def recorded(folder, model, *, checks=4, change=None, close=True, **options):
    """The record of a run; `change` is done to the model before the last check."""
    watcher = monitor(output_dir=folder, sinks=None, generation={"every": 1}, **options)
    for step in range(checks):
        if change is not None and step == checks - 1:
            change(model)
        watcher.step(model, step)
    if close:
        watcher.close()
    return folder / RECORD


def shrunken(model):
    with torch.no_grad():
        model.model.norm.weight[6:] = 0.0


def rank_of(model):
    return monitor().check(model, 0).layers["last"]["effective_rank"].value


@pytest.mark.parametrize("kind", [str, lambda path: path], ids=["str", "path"])
def test_a_run_is_compared_with_the_baseline_of_another_from_its_first_check(tmp_path, kind):
    path = recorded(tmp_path / "one", tiny("llama"), change=certain)
    model, listener = tiny("llama"), Listener()
    whole = rank_of(model)
    shrunken(model)
    certain(model)
    watcher = monitor(
        baseline=kind(path), generation={"every": 1}, sinks=[listener], output_dir=tmp_path / "two"
    )
    expected = pytest.approx(rank_of(model) / whole, rel=1e-9)
    for step in range(8):
        assert watcher.step(model, step).ratios["last"] == expected
    told = [(a.channel, a.kind) for a in listener.heard if hasattr(a, "kind")]
    assert "BASELINE" not in {kind for _, kind in told}
    assert ("representation", "WARNING") in told
    assert ("generation", "COLLAPSED") in told
    assert min(a.step for a in listener.heard if hasattr(a, "kind")) == 2  # three make a median


def test_the_record_says_whose_baseline_it_was(tmp_path, messages):
    path = recorded(tmp_path / "one", tiny("llama"))
    recorded(tmp_path / "two", tiny("llama"), baseline=path)
    events = {e["event"]: e for e in read_record(tmp_path / "two" / RECORD).events}
    assert events["started"]["baseline_asked"] == str(path)
    assert events["baseline"]["source"] == str(path)
    theirs = {e["event"]: e for e in read_record(path).events}["baseline"]
    assert events["baseline"]["baselines"] == theirs["baselines"]
    assert events["end"]["baselines"]["layers"].keys() == {"last"}
    assert messages() == []


ANOTHER = {
    "probes": {"probes": ProbeSet.from_tensors({"input_ids": token_ids(16, 24, seed=5)})},
    "ridge": {"relative_ridge": 0.1},
    "pooling": {"pooling": "mean"},
    "temperature": {"generation": {"every": 1, "temperature": 0.5}},
    "length": {"generation": {"every": 1, "new_tokens": 7}},
    "channels": {"channels": ("representation",)},
    "encoder": {"encoder": Keeping()},
}


@pytest.mark.parametrize("options", ANOTHER.values(), ids=ANOTHER)
def test_a_baseline_of_other_conditions_is_refused_once_and_the_run_is_its_own(
    tmp_path, messages, options
):
    path = recorded(tmp_path, tiny("llama"))
    model, listener = tiny("llama"), Listener()
    shrunken(model)
    watcher = monitor(
        **{"generation": {"every": 1}, "sinks": [listener], **options, "baseline": path}
    )
    model.name_or_path = "some/model"  # loaded weights: their own start
    for step in range(8):
        assert watcher.step(model, step).ratios["last"] == pytest.approx(1.0)
    assert watcher.failures == 0
    (message,) = messages()
    assert str(path) in message
    assert "this run is its own baseline" in message
    assert set(listener.alerts()) == {"BASELINE"}


def test_a_baseline_of_other_conditions_is_refused_once_under_a_budget_too(
    tmp_path, messages, monkeypatch
):
    path = recorded(tmp_path, tiny("llama"), pooling="mean")
    clock, model = stop_the_clock(monkeypatch), tiny("llama")
    watcher = monitor(baseline=path, max_overhead=0.5, max_steps=20)
    for step in range(12):
        clock.advance(1.0)
        watcher.step(model, step)
    assert watcher.checks > 1
    assert len([m for m in messages() if "its own baseline" in m]) == 1


def test_the_baseline_of_another_run_outlasts_a_resume(tmp_path, messages):
    path = recorded(tmp_path, tiny("llama"))
    model = tiny("llama")
    shrunken(model)
    watcher = monitor(baseline=path, generation={"every": 1})
    watcher.step(model, 0)
    resumed = monitor(baseline=path, generation={"every": 1})
    resumed.load_state_dict(json.loads(json.dumps(watcher.state_dict())))
    ratios = [w.step(model, 1).ratios["last"] for w in (watcher, resumed)]
    assert ratios[0] == ratios[1] < 0.8
    assert messages() == []


def test_a_chain_is_compared_with_the_end_of_each_generation(tmp_path):
    paths, ranks = [], []
    for number, change in enumerate((None, shrunken)):
        model = tiny("llama")
        paths.append(recorded(tmp_path / str(number), model, change=change))
        ranks.append(rank_of(model))
    control = RunLineage(paths)
    assert len(control) == 2
    assert ranks[1] < 0.8 * ranks[0]
    model = tiny("llama")
    shrunken(model)
    for number, rank in enumerate(ranks):
        watcher = monitor(baseline=control.generation(number), generation={"every": 1})
        found = watcher.check(model, 0).ratios["last"]
        assert found == pytest.approx(ranks[1] / rank, rel=1e-9)
        assert watcher.reference.source == str(paths[number])
    with pytest.raises(InputError, match="generation 2: this lineage has 2"):
        control.generation(2)
    with pytest.raises(InputError, match="generation -1"):
        control.generation(-1)


def test_a_chain_needs_runs_that_ended(tmp_path):
    killed = recorded(tmp_path / "killed", tiny("llama"), close=False)
    with pytest.raises(InputError, match=r"did not end by close\(\)"):
        RunLineage([killed])
    with pytest.raises(InputError, match="at least one"):
        RunLineage([])
    with pytest.raises(InputError, match="list of at least one"):
        RunLineage(str(killed))
    with pytest.raises(RecordError, match=r"missing\.jsonl"):
        RunLineage([tmp_path / "missing.jsonl"])


def test_a_run_that_ended_in_nan_is_refused(tmp_path):
    def poisoned(model):
        with torch.no_grad():
            model.model.norm.weight.fill_(math.nan)

    path = recorded(tmp_path, tiny("llama"), change=poisoned)
    with pytest.raises(InputError, match="no 'end' event"):
        RunLineage([path])


def test_a_finished_run_that_is_resumed_keeps_its_end(tmp_path):
    """As a Trainer does that is told to go on from its last checkpoint."""
    model = tiny("llama")
    watcher = monitor(output_dir=tmp_path, sinks=None)
    watcher.step(model, 0)
    watcher.close()
    resumed = monitor(output_dir=tmp_path, sinks=None)
    resumed.load_state_dict(watcher.state_dict())
    resumed.note("resumed", step=0)
    resumed.close()
    assert RunLineage([tmp_path / RECORD]).generation(0).baselines["layers"].keys() == {"last"}


@pytest.mark.parametrize(
    "content", [None, b"", b"what is this\n", b'{"a": 1}\n', b"[1, 2]\n", b"\xff\xfe\n"]
)
def test_a_baseline_that_is_no_record_is_refused_at_construction(tmp_path, content):
    path = tmp_path / "record.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"record\.jsonl"):
        monitor(baseline=path)
    with pytest.raises(InputError, match=r"record\.jsonl"):
        monitor(baseline=str(path))


@pytest.mark.parametrize("baseline", ["stat", "", ".", None, 3, ["start"]])
def test_a_baseline_that_is_neither_a_name_nor_a_path_is_refused(baseline):
    with pytest.raises(InputError, match="baseline="):
        monitor(baseline=baseline)


def test_a_record_without_a_baseline_is_refused_at_construction(tmp_path):
    path = recorded(tmp_path, tiny("llama"), checks=3, baseline="plateau")
    with pytest.raises(InputError, match="that run had no baseline yet"):
        monitor(baseline=path)


def test_a_record_with_another_kind_of_baseline_is_refused_at_construction(tmp_path):
    path = tmp_path / "record.jsonl"
    path.write_text('{"type": "event", "event": "baseline", "step": 3}\n')
    with pytest.raises((InputError, RecordError)):
        monitor(baseline=path)


# --- the budget ----------------------------------------------------------------------------------


def test_what_is_built_once_is_no_recurring_cost(monkeypatch):
    clock, model = stop_the_clock(monkeypatch), tiny("llama")
    calls = []

    def slow_at_first(texts):
        clock.advance(0.1 if calls else 50.0)
        calls.append(len(texts))
        return [[float(len(text)), 1.0, float(i)] for i, text in enumerate(texts)]

    watcher = monitor(encoder=slow_at_first, every="auto", max_overhead=0.01, max_steps=1000)
    for step in range(100):
        clock.advance(1.0 if step else 0.0)
        watcher.step(model, step)
    costs = watcher.cadence.state_dict()
    assert costs["check_seconds"] >= 50.0
    assert costs["extra"] == pytest.approx(0.1 / watcher.instrument.writing_probe.every)


def test_text_is_not_lost_where_the_probe_set_shrinks(monkeypatch):
    """Of 128 examples 97 are long enough to be continued, and 64 are; of the first 64, 33 are."""
    clock, model, listener = stop_the_clock(monkeypatch), tiny("llama"), Listener()
    tensors = padded([24 if i < 33 or i >= 64 else 3 for i in range(128)])
    rows = torch.randn(128, 16, generator=torch.Generator().manual_seed(0))

    def embed(model, batch):
        clock.advance(len(batch["input_ids"]) / 128)
        return rows[batch["index"]]

    watcher = monitor(
        ProbeSet.from_tensors({**tensors, "index": torch.arange(128)}),
        embed_fn=embed,
        every="auto",
        max_overhead=0.01,
        max_steps=1000,
        generation={"every": 1, "examples": 64, "new_tokens": 4},
        sinks=[listener],
    )
    for step in range(301):
        clock.advance(1.0 if step else 0.0)
        watcher.step(model, step)
    assert [s.examples for s in listener.snapshots()][:3] == [128, 64, 64]
    assert len([s for s in listener.snapshots() if s.generation]) >= 4
    # The first writing stays the baseline: its prompts are of the whole set, cut or not.
    for series in watcher._watch.generation.series.values():
        assert series.detector.baseline.step == 0
    assert set(listener.alerts()) == {"BASELINE"}
