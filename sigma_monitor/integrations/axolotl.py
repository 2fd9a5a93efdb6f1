"""`SigmaPlugin`: the monitor in a training that axolotl configures.

In the YAML::

    plugins:
      - sigma_monitor.integrations.axolotl.SigmaPlugin
    sigma_monitor:           # keyword arguments of SigmaCallback, none of them needed
      stop_on_collapse: 0.5
      max_overhead: 0.02
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sigma_monitor.errors import InputError
from sigma_monitor.integrations.transformers import SigmaCallback

__all__ = ["SigmaArgs", "SigmaPlugin"]

_KEY = "sigma_monitor"

if TYPE_CHECKING:
    BasePlugin: Any = object
    BaseModel: Any = object
else:
    try:
        from axolotl.integrations.base import BasePlugin
        from pydantic import BaseModel  # which axolotl brings
    except ImportError:  # said where the plugin is made
        BasePlugin = BaseModel = object


class SigmaArgs(BaseModel):  # type: ignore[misc]
    """The key of the YAML, which axolotl would refuse otherwise."""

    sigma_monitor: dict[str, Any] | None = None


class SigmaPlugin(BasePlugin):  # type: ignore[misc]
    """An axolotl plugin that adds a `SigmaCallback` to the Trainer.

    Raises:
        ImportError: When axolotl is not installed.
    """

    def __init__(self) -> None:
        if BasePlugin is object:
            raise ImportError(
                "SigmaPlugin needs axolotl, which loads it: pip install axolotl. In a Trainer of "
                "your own use SigmaCallback."
            )
        super().__init__()

    def get_input_args(self) -> str:
        """Where axolotl finds the schema of our key."""
        return f"{__name__}.SigmaArgs"

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[SigmaCallback]:
        """A `SigmaCallback` for the Trainer that has been made.

        Args:
            cfg: The configuration; its `sigma_monitor` holds keyword arguments of `SigmaCallback`.
            trainer: The Trainer, to which axolotl adds it.

        Raises:
            InputError: On an option that cannot be used.
        """
        options = _builtin(getattr(cfg, _KEY, None) or {})
        if not isinstance(options, dict):
            raise InputError(f"{_KEY}: {options!r} in the YAML: give keyword arguments by name.")
        try:
            return [SigmaCallback(**options)]
        except TypeError as error:
            raise InputError(f"{_KEY}: {options!r} in the YAML: {error}.") from error


def _builtin(value: Any) -> Any:
    """Plain containers: axolotl's mapping gives None for what it does not hold."""
    if isinstance(value, Mapping):
        return {str(key): _builtin(part) for key, part in value.items()}
    return [_builtin(part) for part in value] if isinstance(value, list) else value
