"""What the commands print: results on standard output, all else on standard error."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from rich.console import Console
from rich.markup import escape
from rich.text import Text

__all__ = [
    "error_console",
    "examples",
    "help_text",
    "one_line",
    "output_console",
    "say",
    "say_error",
    "say_warning",
]


def output_console() -> Console:
    """For results. Made anew each time, so that it follows a redirected standard output."""
    return Console(highlight=False, soft_wrap=True)


def error_console() -> Console:
    """For progress, warnings and errors."""
    return Console(highlight=False, soft_wrap=True, stderr=True)


def say(message: str) -> None:
    """One line of result."""
    output_console().print(Text(message))


def say_error(message: str) -> None:
    """One red line, `error: ...`."""
    error_console().print(Text(f"error: {one_line(message)}", style="bold red"))


def say_warning(message: str) -> None:
    """One yellow line, `warning: ...`."""
    error_console().print(Text(f"warning: {one_line(message)}", style="yellow"))


def one_line(message: str) -> str:
    """A message of several lines as one.

    >>> one_line("no such file.\\n  Give another.")
    'no such file. Give another.'
    """
    return " ".join(line.strip() for line in message.splitlines() if line.strip())


def examples(*lines: tuple[str, str]) -> str:
    """The Examples block at the foot of a command's help: pairs of a command and what it does."""
    shown = [f"[cyan]{escape(command)}[/cyan]\n    {escape(does)}" for command, does in lines]
    return "\n\n".join(["[bold]Examples[/bold]", *shown])


def help_text(command: Callable[..., object]) -> str:
    """The docstring as help, each paragraph one line: the terminal breaks it where the window ends."""
    paragraphs = inspect.cleandoc(command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
