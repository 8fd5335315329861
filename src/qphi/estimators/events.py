"""TensorBoard event files of a fit, for those who have the writer installed."""

from __future__ import annotations

from pathlib import Path

from qphi.errors import InputError
from qphi.loop import Progress

__all__ = ["Events"]


class Events:
    """Writes what a watcher is told as scalars, nats per datum, into a folder that TensorBoard reads.

    Raises InputError when the package tensorboardX is not there.
    """

    def __init__(self, folder: Path):
        try:
            from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
        except ImportError:
            raise InputError(
                "tensorboard=True needs the package tensorboardX: pip install 'qphi[tensorboard]'. metrics.csv of "
                "the run folder has the same figures without it."
            ) from None
        self._writer = SummaryWriter(str(folder / "tensorboard"))

    def __call__(self, progress: Progress) -> None:
        for kind, parts in (("training", progress.training), ("held out", progress.held_out)):
            for name, value in parts.items():
                self._writer.add_scalar(f"{name}/{kind}", value, progress.step)
        self._writer.add_scalar("learning rate", progress.learning_rate, progress.step)

    def close(self) -> None:
        """Writes what is still in memory."""
        self._writer.close()
