"""A fit as it goes on: a bar with the ELBO on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from qphi.cli.console import error_console

if TYPE_CHECKING:
    from qphi.loop import Progress

__all__ = ["FitDisplay", "clock", "nats"]

SECONDS_BETWEEN_LINES = 5.0  # without a terminal


class FitDisplay:
    """The watcher that `qphi fit` gives to `VAE.fit`; also the context in which the bar lives.

    It shows the ELBO of the training batches, the held-out ELBO with its two parts and the best so far, in
    nats per datum, the epoch and the least time left: a fit goes on for as long as the held-out ELBO rises.
    """

    def __init__(self, name: str, max_epochs: float | None = None) -> None:
        self._name = name
        self._max_epochs = max_epochs
        self._console = error_console()
        self._last: Progress | None = None
        self._printed: Progress | None = None
        self._printed_at = -float("inf")
        # Left alone, Live would take standard output over as well, where the results go
        self._live = Live(
            Text(f"fitting {name}: compiling ..."),
            console=self._console,
            refresh_per_second=2,  # each takes milliseconds of a core that trains
            transient=True,
        )

    def __enter__(self) -> FitDisplay:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __call__(self, progress: Progress) -> None:
        if self._last is None and not self._console.is_terminal:
            self._console.print(Text(f"fitting {self._name}; figures in nats per datum"))
        self._last = progress
        if self._console.is_terminal:
            self._live.update(_bar(self._name, progress, self._max_epochs))
        elif time.monotonic() - self._printed_at >= SECONDS_BETWEEN_LINES:
            self._print_line()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()
        elif error is None and self._last is not self._printed:
            self._print_line()

    def _print_line(self) -> None:
        if self._last is not None:
            self._printed_at, self._printed = time.monotonic(), self._last
            self._console.print(Text(_line(self._last, self._max_epochs)))


def _bar(name: str, progress: Progress, max_epochs: float | None) -> Group:
    head = Table.grid(padding=(0, 1))
    left = "" if progress.seconds_left is None else f"at least {clock(progress.seconds_left)} left"
    share = _share_done(progress, max_epochs)
    bar = ProgressBar(total=1.0, completed=share or 0.0, width=30, pulse=share is None)
    title = Text.assemble("fitting ", (name, "bold"))
    head.add_row(title, bar, _epochs(progress, max_epochs), clock(progress.seconds), left)
    figures = Table(box=None, padding=(0, 2), pad_edge=False, header_style="dim")
    for title in ("nats per datum:", "ELBO", "held-out ELBO", "= log likelihood", "- KL", "best held-out"):
        figures.add_column(title, justify="right", no_wrap=True)
    figures.add_row(
        "",
        nats(progress.elbo_per_datum),
        Text(nats(progress.held_out_elbo_per_datum), style="bold"),
        nats(progress.log_likelihood_per_datum),
        nats(progress.kl_per_datum),
        nats(progress.best_elbo_per_datum),
    )
    return Group(head, figures)


def _line(progress: Progress, max_epochs: float | None) -> str:
    left = "" if progress.seconds_left is None else f", at least {clock(progress.seconds_left)} left"
    return (
        f"{_epochs(progress, max_epochs)}: ELBO {nats(progress.elbo_per_datum)}, "
        f"held-out ELBO {nats(progress.held_out_elbo_per_datum)} "
        f"(log likelihood {nats(progress.log_likelihood_per_datum)}, KL {nats(progress.kl_per_datum)}), "
        f"best {nats(progress.best_elbo_per_datum)}, {clock(progress.seconds)}{left}"
    )


def _epochs(progress: Progress, max_epochs: float | None) -> str:
    return f"epoch {progress.epoch:.0f}" + ("" if max_epochs is None else f" of at most {max_epochs:g}")


def _share_done(progress: Progress, max_epochs: float | None) -> float | None:
    if progress.seconds_left is not None:
        return progress.seconds / max(progress.seconds + progress.seconds_left, 1e-9)
    return None if max_epochs is None else progress.epoch / max_epochs


def nats(value: float | None) -> str:
    """A figure in nats with as many digits as are worth reading.

    >>> nats(-1234.56), nats(-103.456), nats(0.5), nats(None)
    ('-1234.6', '-103.46', '0.50', '-')
    """
    if value is None:
        return "-"
    return f"{value:.1f}" if abs(value) >= 1000 else f"{value:.2f}"


def clock(seconds: float) -> str:
    """Seconds as people write them.

    >>> clock(7.2), clock(75), clock(4000)
    ('7 s', '1:15', '1:06:40')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
