"""What verbs share: progress bars on standard error, JSON files, output folders."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import typer

from cascade_det.errors import RunError

PLOT_SUFFIXES: Final = frozenset({".png", ".svg", ".pdf"})
_STEM = 60  # characters of a picture's name in those of files made of it; the number tells equal ones apart


@contextlib.contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that moves a bar on standard error; without a terminal there is no bar."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    ]
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.advance(task, done)


@contextlib.contextmanager
def stopped_like_ctrl_c() -> Iterator[None]:
    """Let SIGTERM, which schedulers send, end the work as Ctrl-C does: child processes go too, and it is said."""
    if threading.current_thread() is not threading.main_thread():  # no other thread may set a handler
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


_words: list[str] = []  # of the command line that is at work


def keep_command_line(words: Sequence[str]) -> None:
    """Remember the words of the command line that is at work, for reports."""
    _words[:] = words


def command_line() -> str:
    """Return the command line that is at work as a shell takes it."""
    return shlex.join(["cascade-det", *_words])


def say(line: str) -> None:
    """Write a line of log to standard error."""
    typer.echo(line, err=True)


def write_json(path: Path | None, value: Any) -> None:
    """Write the machine-readable result of a verb where one is wanted."""
    if path is not None:
        from cascade_det.data.atomic import write_json_atomic

        path.parent.mkdir(parents=True, exist_ok=True)
        write_json_atomic(path, value, indent=1)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table to standard output, the first column to the left; texts are shown as they are, without markup."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE)
    for place, name in enumerate(head):
        table.add_column(Text(name), justify="right" if place else "left", no_wrap=place == 0, overflow="fold")
    for row in rows:
        table.add_row(*(Text(value) for value in row))
    console = Console()
    console.print(table, width=None if console.is_terminal else 1000)  # a file has no edge to fold at


def numbered_name(number: int, path: Path, ending: str) -> str:
    """Return the name of a file made of the picture `path`; cut short, so that no name outgrows a file system."""
    return f"{number:05d}_{path.stem[:_STEM]}{ending}"


def own_folder(out: Path, own_names: set[str], flag: str = "--out") -> Path:
    """Return an output folder, made if missing; refused where it holds other things than this verb's own output.

    Args:
        out: the folder that the user named by `flag`.
        own_names: names of what the verb writes there.
        flag: as the message names it.
    """
    if out.exists() and not out.is_dir():
        raise RunError(f"{flag} {out}: is a file; name a folder.")
    foreign = sorted(path.name for path in out.iterdir() if path.name not in own_names) if out.is_dir() else []
    if foreign:
        raise RunError(
            f"{flag} {out}: holds other things than this verb's output, such as {foreign[0]!r}; name another folder."
        )
    out.mkdir(parents=True, exist_ok=True)
    return out
