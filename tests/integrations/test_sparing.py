"""A callback that raises costs those behind it nothing; any object with `on_log` will do."""

import pytest

from sigma_monitor.integrations.sparing import sparing


class Logger:
    def __init__(self, error=None):
        self.error = error
        self.got = []

    def on_log(self, args, logs=None):
        self.got.append((args, logs))
        if self.error is not None:
            raise self.error
        return "control"


def refusals(callbacks):
    """What is told of these, and what they answer."""
    told = []
    with sparing(callbacks, lambda *refusal: told.append(refusal)):
        answers = [callback.on_log("args", logs={"a": 1}) for callback in callbacks]
    return told, answers


def test_every_callback_is_called_and_the_failures_are_told():
    error = ValueError("no such metric")
    before, refuses, behind = callbacks = [Logger(), Logger(error), Logger()]
    told, answers = refusals(callbacks)
    assert told == [(refuses, error)]
    assert answers == ["control", None, "control"]
    assert before.got == refuses.got == behind.got == [("args", {"a": 1})]


def test_afterwards_each_is_what_it_was():
    of_its_own = Logger()
    of_its_own.on_log = mine = lambda *_, **__: "mine"
    plain = Logger(KeyError())
    twice = Logger()
    _, answers = refusals([of_its_own, plain, twice, twice])
    assert answers == ["mine", None, "control", "control"]
    assert of_its_own.on_log is mine
    assert "on_log" not in vars(plain)
    assert "on_log" not in vars(twice)


def test_an_interrupt_goes_through_and_nothing_stays():
    logger = Logger(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        refusals([logger])
    assert "on_log" not in vars(logger)
