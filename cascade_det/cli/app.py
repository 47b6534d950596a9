"""The verb table and what all verbs share: errors, progress bars, JSON output. Heavy imports happen inside verbs."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import typer

from cascade_det import __version__
from cascade_det.cli import (
    compare_verb,
    data_verbs,
    evaluate_verb,
    inspect_verbs,
    interop_verbs,
    run_verbs,
    score_verbs,
    train_verbs,
)
from cascade_det.cli.common import keep_command_line
from cascade_det.errors import CascadeError

_INTERRUPTED = 130  # as a shell counts it; typer returns it too
_RESUMED = {"train": "the same command goes on where it stopped"}  # no other verb keeps unfinished work by itself
_RESUMED_IN_FOLDER = dict.fromkeys(("detect", "evaluate"), "the same command with --resume goes on where it stopped")

app = typer.Typer(
    name="cascade-det",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Cascaded single-class detectors: train from a recipe, detect, evaluate.\n\n"
    "Start with `cascade-det train quickstart`, which needs no data.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"cascade_det {__version__}")
        raise typer.Exit()


@app.callback()
def _common(
    version: bool = typer.Option(
        False, "--version", help="Print the version and exit.", is_eager=True, callback=_print_version
    ),
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
) -> None: ...


app.command("train")(train_verbs.train)
app.command("status")(train_verbs.status)
app.command("check")(train_verbs.check)
app.command("detect")(run_verbs.detect)
app.command("evaluate")(evaluate_verb.evaluate)
app.command("score")(score_verbs.score)
app.command("compare")(compare_verb.compare)
app.add_typer(data_verbs.app, name="data")
app.command("import")(interop_verbs.import_weights)
app.command("parts")(inspect_verbs.parts)
app.command("models")(inspect_verbs.models)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 done with listed failures, 2 wrong input."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    keep_command_line(words)
    command = typer.main.get_command(app)
    try:
        result = command.main([w for w in words if w != "--debug"], prog_name="cascade-det", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except typer.TyperException as error:
        if words:  # without any, the help was printed
            print(f"error: {error.format_message()} Try `cascade-det --help`.", file=sys.stderr)
        code = 2
    except (CascadeError, OSError) as error:
        if debug:
            traceback.print_exception(error)
        print(f"error: {error}", file=sys.stderr)
        code = 2
    except (typer.Abort, KeyboardInterrupt):
        code = _INTERRUPTED
    if code == _INTERRUPTED:
        verb = next((word for word in words if not word.startswith("-")), None)
        folder = any(word.split("=")[0] == "--out" for word in words)
        afterwards = {**_RESUMED, **(_RESUMED_IN_FOLDER if folder else {})}.get(verb or "", "nothing was finished")
        print(f"interrupted; {afterwards}", file=sys.stderr)
    return code
