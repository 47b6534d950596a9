"""Who may work in a run directory: one process at a time, for one recipe."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cascade_det.core.recipe import recipe_to_yaml
from cascade_det.core.schema import Recipe
from cascade_det.data.atomic import write_json_atomic, write_text_atomic
from cascade_det.errors import RunError

_LOCK, _OWNER, _RECIPE = ".lock", ".owner.json", "recipe.yaml"
_MARKS = [f"*/{kind}/{name}" for kind in ("mine*", "fit*", "calibrate*") for name in ("started.txt", "done.json")]
_WAIT_S = 3.0  # a process that was just told to stop gives the lock back within a second or two


@contextlib.contextmanager
def claim(folder: Path, recipe: Recipe) -> Iterator[None]:
    """Hold the run directory for this process; it is made if missing.

    The operating system gives the lock back when the process ends, however that happens.

    Args:
        folder: the run directory.
        recipe: whose run it is.

    Raises:
        RunError: it holds other things than a run, or another recipe's; another process is in it; or it cannot be
            written.
    """
    from filelock import FileLock, Timeout

    with explain_os_errors(f"run_dir={folder}", folder):
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_foreign(folder, recipe.name)
        lock = FileLock(folder / _LOCK)
        try:
            lock.acquire(timeout=_WAIT_S)
        except Timeout:
            raise RunError(
                f"run_dir={folder}: {_description(folder)} is at work in it. Wait for it or stop it; "
                "or choose another run_dir=."
            ) from None
        try:
            _refuse_other_recipe(folder, recipe)
            write_json_atomic(folder / _OWNER, {"pid": os.getpid(), "host": platform.node(), "since": _now()})
        except BaseException:
            lock.release()
            raise
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # of a disk that is full or gone: the error within is the one to tell
            (folder / _OWNER).unlink(missing_ok=True)
        lock.release()


def keep_recipe(folder: Path, recipe: Recipe) -> None:
    """Write the recipe of a run into its directory, over that of the run before.

    Raises:
        RunError: it cannot be written.
    """
    with explain_os_errors(f"run_dir={folder}", folder):
        write_text_atomic(folder / _RECIPE, recipe_to_yaml(recipe))


def at_work(folder: Path) -> str | None:
    """Return a description of the process that holds the run directory, None where none does."""
    from filelock import FileLock, Timeout

    if not (folder / _LOCK).is_file():
        return None
    try:
        with FileLock(folder / _LOCK, timeout=0):
            return None
    except Timeout:
        return _description(folder)
    except OSError:  # a folder that only its owner may write to
        return None


@contextlib.contextmanager
def explain_os_errors(what: str, folder: Path) -> Iterator[None]:
    """Turn an `OSError` (disk full, no permission) into a `RunError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise RunError(explanation(what, folder, error)) from error


def explanation(what: str, folder: Path, error: OSError) -> str:
    """Return one paragraph on an `OSError` of a step that writes to `folder`."""
    reason = error.strerror or str(error)  # numpy's failed writes have no number
    place = f"{error.filename}: " if error.filename else ""
    try:
        room = f"; {shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free there"
    except OSError:
        room = ""
    return (
        f"{what}: {place}{reason}{room}. Finished work is kept: make room or allow writing and give the same command "
        "again, or choose another run_dir=."
    )


def _refuse_foreign(folder: Path, name: str) -> None:
    """Refuse a folder that holds things and no mark of a run: a run replaces what has the names of its own files."""
    # recipe.yaml alone is no mark: it may be what somebody wrote; hidden files are never touched but for our own
    foreign = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    began = (folder / _LOCK).is_file() and (folder / _RECIPE).is_file()
    if foreign and not began and not any(next(folder.glob(mark), None) for mark in _MARKS):
        raise RunError(
            f"run_dir={folder}: holds other things than a run, such as {foreign[0]!r}, which a run might replace. "
            f"Choose a folder that is new or empty, such as run_dir={folder / name}."
        )


def _refuse_other_recipe(folder: Path, recipe: Recipe) -> None:
    """Refuse the run of a recipe of another name, or of this name with another object or no stage in common.

    Any other difference is a change of one recipe, whose work goes stale step by step.
    """
    path = folder / _RECIPE
    if not path.is_file():
        return
    name, category, stages = _identity(path)
    pairs = [("name", name, recipe.name), ("object.category", category, recipe.object.category)]
    if not set(stages) & set(recipe.stages):
        pairs.append(("stages", ", ".join(stages), ", ".join(recipe.stages)))
    differences = [f"{key} is {there!r} there and {here!r} here" for key, there, here in pairs if there != here]
    if differences:
        raise RunError(
            f"run_dir={folder}: holds the run of another recipe: {'; '.join(differences)}. Give this recipe a name= of "
            "its own, choose another run_dir=, or delete the folder."
        )


def _identity(path: Path) -> tuple[str, str, list[str]]:
    """Return name, category and names of the stages from the recipe of a run; YAML quotes a name such as 007."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text())
        return str(values["name"]), str(values["object"]["category"]), [str(stage) for stage in values["stages"]]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        raise RunError(
            f"{path}: holds no recipe that can be read. Remove this file if the run is yours, or choose another "
            "run_dir=."
        ) from None


def _description(folder: Path) -> str:
    try:
        owner: dict[str, Any] = json.loads((folder / _OWNER).read_text())
        return f"process {owner['pid']} on {owner['host']} (since {owner['since']})"
    except (OSError, ValueError, KeyError):
        return "another process"


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")
