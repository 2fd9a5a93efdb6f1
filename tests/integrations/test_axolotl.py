"""`SigmaPlugin` under a stand-in for axolotl, which the tests do not install."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import sigma_monitor.integrations.axolotl as ours
from sigma_monitor import SigmaCallback
from sigma_monitor.errors import InputError
from tests.integrations.bitwise import differences, remains
from tests.integrations.hosts import expected_metrics, make_trainer, sigma_entries


class BasePlugin:
    """As much of axolotl's as its plugin manager calls here."""

    def add_callbacks_pre_trainer(self, cfg: Any, model: Any) -> list[Any]:
        return []


class Config(dict[str, Any]):
    """A mapping that gives None for what it does not hold, as attribute and as item."""

    def __missing__(self, key: str) -> None:
        return None

    def __getattr__(self, name: str) -> Any:
        return self[name]


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Made in a process in which axolotl is there."""
    base = ModuleType("axolotl.integrations.base")
    base.BasePlugin = BasePlugin  # type: ignore[attr-defined]
    for name in ("axolotl", "axolotl.integrations"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, base.__name__, base)
    yield importlib.reload(ours).SigmaPlugin()
    monkeypatch.undo()
    importlib.reload(ours)


def test_it_is_a_plugin_and_its_key_has_a_schema(plugin: Any) -> None:
    assert isinstance(plugin, BasePlugin)
    module, name = plugin.get_input_args().rsplit(".", 1)
    schema = getattr(importlib.import_module(module), name)
    assert schema(sigma_monitor={"every": 3}).sigma_monitor == {"every": 3}
    assert schema().sigma_monitor is None
    with pytest.raises(ValueError, match="sigma_monitor"):
        schema(sigma_monitor=3)


def test_the_training_is_watched_with_the_options_of_the_yaml(plugin: Any, tmp_path: Path) -> None:
    plain = make_trainer(tmp_path / "plain")
    plain.train()
    left = remains(plain)  # at once: what comes after draws random numbers too
    trainer = make_trainer(tmp_path / "watched")
    options = Config(every=10, max_overhead=None, detector=Config(collapsed=0.4))
    for callback in plugin.add_callbacks_post_trainer(Config(sigma_monitor=options), trainer):
        trainer.add_callback(callback)
    trainer.train()
    assert differences(left, remains(trainer)) == []
    wanted = expected_metrics(tmp_path / "watched")
    assert [step for step, _ in wanted] == [0, 10, 20, 30]
    assert sigma_entries(trainer.state.log_history) == wanted
    assert type(callback.monitor.thresholds["representation"]) is dict
    assert callback.monitor.thresholds["representation"]["collapsed"] == 0.4


def test_no_option_is_needed(plugin: Any) -> None:
    (callback,) = plugin.add_callbacks_post_trainer(Config(), None)
    assert isinstance(callback, SigmaCallback)


@pytest.mark.parametrize("given", [Config(evry=3), Config(every=0), ["every"]])
def test_an_option_that_cannot_be_used_is_named(plugin: Any, given: Any) -> None:
    with pytest.raises(InputError, match=r"every|evry"):
        plugin.add_callbacks_post_trainer(Config(sigma_monitor=given), None)


def test_without_axolotl_the_package_to_install_is_named() -> None:
    with pytest.raises(ImportError, match="pip install axolotl"):
        ours.SigmaPlugin()
