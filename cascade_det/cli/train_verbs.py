"""The verbs around training: train, status, check."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from cascade_det.cli.common import command_line, progress_bar, say, stopped_like_ctrl_c, write_json
from cascade_det.errors import RunError

RecipeArgument = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")
]
Overrides = Annotated[
    Optional[list[str]], typer.Argument(metavar="[KEY=VALUE]...", help="Overrides, such as seed=1.", show_default=False)
]
PresetOption = Annotated[Optional[str], typer.Option("--preset", help="A named set of overrides of the recipe.")]
JsonOption = Annotated[Optional[Path], typer.Option("--json", metavar="FILE", help="Write the result for machines.")]


def train(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    stage: Annotated[Optional[str], typer.Option("--stage", help="Do the steps of this stage only.")] = None,
    step: Annotated[Optional[str], typer.Option("--step", help="Do this step only: mine, fit or calibrate.")] = None,
    start: Annotated[Optional[str], typer.Option("--from", help="Redo this stage and all after it.")] = None,
    preset: PresetOption = None,
    json_file: JsonOption = None,
) -> None:
    """Train a cascade: mine, fit and calibrate each stage, then evaluate.

    What is done is kept: the same command goes on after an interruption, and after a change of the recipe redoes
    exactly what depends on it. Pictures that cannot be read are skipped and counted; the exit code is then 1.

    Paths in a recipe file start at its folder; those in a shipped recipe (with `$FACES` and the like) and those given
    as KEY=VALUE start at the current folder.

    Examples:

    `cascade-det train quickstart`

    `cascade-det train mtcnn_face run_dir=runs/first seed=1`

    `cascade-det train my.yaml stages.onet.net.params.alpha=0.5 --from onet`
    """
    from cascade_det.core.recipe import load_recipe
    from cascade_det.training.pipeline import Run
    from cascade_det.training.run_report import run_summary

    if step is not None and step not in ("mine", "fit", "calibrate"):
        raise RunError(f"--step {step!r}: choices: mine, fit, calibrate.")
    loaded = load_recipe(recipe, *(overrides or []), preset=preset)
    run = Run(loaded, bar=progress_bar, say=say, command=command_line())
    with stopped_like_ctrl_c():
        metrics = run.train(stage, step, start)
    if stage is None and step is None:
        print("\n".join(run_summary(run.folder, metrics, run.plan.seconds())))
    write_json(json_file, metrics)
    if run.plan.unreadable():
        raise typer.Exit(1)


def status(
    run: Annotated[
        str, typer.Argument(metavar="RUN_DIR|RECIPE", help="A run directory, a recipe file or a shipped name.")
    ],
    overrides: Overrides = None,
    json_file: JsonOption = None,
) -> None:
    """Say what of a run is done, what is stale and why, and what comes next.

    Examples:

    `cascade-det status runs/quickstart`

    `cascade-det status quickstart seed=1`
    """
    from cascade_det.core.recipe import load_recipe
    from cascade_det.training.plan import Plan
    from cascade_det.training.run_folder import at_work

    path = Path(run)
    if path.is_dir():
        if not (path / "recipe.yaml").is_file():
            raise RunError(f"{path}: holds no recipe.yaml, so it is no run directory.")
        loaded = load_recipe(path / "recipe.yaml", *(overrides or []))
        loaded.run_dir = str(path)  # no override: YAML would take a folder named 007 for a number
    else:
        loaded = load_recipe(run, *(overrides or []))
    current = Plan(loaded, say)
    states = [current.state(step) for step in current.steps]
    upstream_open = False
    rows = []
    for state in states:
        shown = "stale" if state.state == "done" and upstream_open else state.state
        upstream_open |= shown != "done"
        rows.append({"step": str(state.step), "state": shown, "changes": state.changes})
        print(f"{state.step!s:<24} {shown}" + "".join(f"\n{'':<26}{change}" for change in state.changes))
    following = next((row["step"] for row in rows if row["state"] != "done"), None)
    print(f"next: {following}" if following else f"all done: {current.folder / 'model.safetensors'}")
    owner = at_work(current.folder)
    if owner:
        print(f"running: {owner}")
    write_json(json_file, {"run_dir": str(current.folder), "steps": rows, "next": following, "running": owner})


def check(
    recipe: RecipeArgument, overrides: Overrides = None, preset: PresetOption = None, json_file: JsonOption = None
) -> None:
    """Check a recipe before it runs: keys and values, data, what windows can reach, parameters, steps.

    Examples:

    `cascade-det check quickstart`

    `cascade-det check mtcnn_face pyramid.min_object_px=15`
    """
    from cascade_det.core.recipe import load_recipe
    from cascade_det.training.check import check_recipe

    loaded = load_recipe(recipe, *(overrides or []), preset=preset)
    report = check_recipe(loaded, say)
    for line in report.lines:
        print(line)
    write_json(json_file, report.facts)
    if report.problems:
        for problem in report.problems:
            print(f"problem: {problem}")
        raise typer.Exit(1)
