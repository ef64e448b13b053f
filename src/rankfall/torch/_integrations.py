"""The monitor as a callback of trainers; their libraries are imported when one is made."""

from __future__ import annotations

import importlib
import importlib.util
import io
from pathlib import Path
from typing import Any

import torch

from rankfall._files import write_atomically
from rankfall.errors import InvalidInput
from rankfall.torch.monitor import RankMonitor

__all__ = ["lightning_callback", "transformers_callback"]

# File of the monitor's state inside a checkpoint folder of transformers.
_STATE = "rankfall_monitor.pt"


def lightning_callback(**settings: Any) -> Any:
    """Return a Lightning callback that makes a `RankMonitor` when training starts.

    The monitor is its attribute `monitor` from then on; its state goes into Lightning's checkpoints.

    Args:
        settings: Of `RankMonitor`, all but model and optimizer.

    Raises:
        ImportError: Neither lightning nor pytorch_lightning is installed.
        InvalidInput: An unknown setting.
    """
    _check(settings)
    base: Any = _base("lightning", names=("lightning.pytorch", "pytorch_lightning"), attribute="Callback")

    class RankCallback(base):
        """Follows the ranks of the module; see `rankfall.torch.RankMonitor`."""

        def __init__(self) -> None:
            self.monitor: RankMonitor | None = None
            self._state: dict[str, Any] | None = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            self.monitor = RankMonitor(pl_module, list(trainer.optimizers), **settings)
            if self._state is not None:
                self.monitor.load_state_dict(self._state)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            self._close()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            self._close()

        def state_dict(self) -> dict[str, Any]:
            return {} if self.monitor is None else self.monitor.state_dict()

        def load_state_dict(self, state_dict: dict[str, Any]) -> None:
            self._state = state_dict or None

        def _close(self) -> None:
            if self.monitor is not None:
                self.monitor.close()

    return RankCallback()


def transformers_callback(**settings: Any) -> Any:
    """Return a callback for Hugging Face's `Trainer` that makes a `RankMonitor` when training starts.

    The monitor is its attribute `monitor` from then on; its state is saved into the trainer's checkpoint folders and
    read when training resumes from one in the output folder.

    Args:
        settings: Of `RankMonitor`, all but model and optimizer.

    Raises:
        ImportError: transformers is not installed.
        InvalidInput: An unknown setting.
    """
    _check(settings)
    base: Any = _base("transformers", names=("transformers",), attribute="TrainerCallback")

    class RankCallback(base):
        """Follows the ranks of the model; see `rankfall.torch.RankMonitor`."""

        def __init__(self) -> None:
            self.monitor: RankMonitor | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            self.monitor = RankMonitor(given["model"], given["optimizer"], **settings)
            file = _folder(args, state) / _STATE
            if state.global_step and file.exists():
                self.monitor.load_state_dict(_read(file))

        def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            folder = _folder(args, state)
            if self.monitor is not None and state.is_world_process_zero and folder.is_dir():
                _write(self.monitor, folder / _STATE)

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            if self.monitor is not None:
                self.monitor.close()

    return RankCallback()


def _base(library: str, *, names: tuple[str, ...], attribute: str) -> Any:
    """Return the class of callbacks from the first of the modules that is installed."""
    for name in names:
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            return getattr(importlib.import_module(name), attribute)
    raise ImportError(f"{library}_callback needs {library}. Install it with: pip install {library}")


def _folder(arguments: Any, state: Any) -> Path:
    return Path(arguments.output_dir) / f"checkpoint-{state.global_step}"


def _read(file: Path) -> dict[str, Any]:

    loaded: dict[str, Any] = torch.load(file, weights_only=True)
    return loaded


def _write(monitor: RankMonitor, file: Path) -> None:

    stream = io.BytesIO()
    torch.save(monitor.state_dict(), stream)
    write_atomically(file, stream.getvalue())


def _check(settings: dict[str, Any]) -> None:
    """Refuse unknown settings now: the trainer would only say so after it has set up everything."""
    known = set(RankMonitor.__init__.__kwdefaults__ or ())
    for name in settings:
        if name not in known:
            raise InvalidInput(f"RankMonitor has no setting {name!r}. It has: {', '.join(sorted(known))}.")
