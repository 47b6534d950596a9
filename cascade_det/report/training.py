"""What a run directory says of its training: mined windows, curves of the fits, thresholds and times."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cascade_det.core.schema import Recipe
from cascade_det.report.figures import shown
from cascade_det.training.mining_report import ROLE_ORDER
from cascade_det.training.plan import Plan, Step
from cascade_det.training.run_report import read_curves
from cascade_det.visual.plots import Curve


@dataclass(frozen=True)
class Round:
    """One round of mining, fitting and calibrating a stage.

    Attributes:
        name: the stage, with the round where there are several.
        mined: the mining report, empty where there is none.
        sheet: picture of the windows that were mined, None where there is none.
        curves: what was logged while fitting, by name; empty without logs.
        thresholds: what calibration found, empty where it did not run.
    """

    name: str
    mined: Mapping[str, Any]
    sheet: Path | None
    curves: Mapping[str, Curve]
    thresholds: Mapping[str, Any]


@dataclass(frozen=True)
class Training:
    """What a run says: its rounds in order, and the seconds of each step."""

    rounds: list[Round]
    seconds: dict[str, float]

    def mining_table(self) -> tuple[list[str], list[tuple[str, list[str]]]]:
        """Return the rounds with mining as columns, and rows of counts."""
        mined = [one for one in self.rounds if one.mined]
        rows = [("Pictures", [shown(one.mined.get("images")) for one in mined])]
        if any(one.mined.get("skipped_images") for one in mined):
            rows.append(("Unreadable pictures", [shown(one.mined.get("skipped_images")) for one in mined]))
        rows.append(("Objects", [shown(one.mined.get("objects")) for one in mined]))
        rows.append(("Objects that teach", [_share(one.mined.get("objects_covered")) for one in mined]))
        for role in ROLE_ORDER:
            rows.append((f"Windows: {role}", [shown(one.mined.get("rows", {}).get(role)) for one in mined]))
        for role in ROLE_ORDER:
            passes = [one.mined.get("passes", {}).get(role) for one in mined]
            if any(passes):
                rows.append((f"Passes of the fit: {role}", [shown(value, decimals=1) for value in passes]))
        rows.append(("Size in MiB", [shown(one.mined.get("size_mib"), decimals=1) for one in mined]))
        return [one.name for one in mined], rows

    def threshold_rows(self) -> list[list[str]]:
        """Return round, threshold, that of mining, share kept, share that reaches it, candidates a picture."""
        return [
            [
                one.name,
                shown(one.thresholds.get("detect")),
                shown(one.thresholds.get("mine")),
                _share(one.thresholds.get("reach")),
                _share(one.thresholds.get("kept")),
                shown(one.thresholds.get("candidates"), decimals=1),
            ]
            for one in self.rounds
            if one.thresholds
        ]

    def time_rows(self) -> list[tuple[str, str]]:
        """Return what each step took, and all of them."""
        rows = [(step, f"{spent:,.1f} s") for step, spent in self.seconds.items()]
        total = sum(self.seconds.values())
        return [*rows, ("all steps", f"{total:,.1f} s ({total / 60:.1f} min)")]


def read_training(recipe: Recipe) -> Training:
    """Read what the steps of a run left in its directory; what is missing is left out."""
    plan = Plan(recipe)
    rounds = []
    for stage, section in recipe.stages.items():
        for number in range(1, section.rounds + 1):
            mined, fitted, calibrated = (plan.path(Step(stage, kind, number)) for kind in ("mine", "fit", "calibrate"))
            sheet = mined / "mined.png"
            rounds.append(
                Round(
                    stage if section.rounds == 1 else f"{stage}, round {number}",
                    _json(mined / "report.json"),
                    sheet if sheet.is_file() else None,
                    read_curves(fitted),
                    _json(calibrated / "thresholds.json"),
                )
            )
    return Training(rounds, plan.seconds())


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _share(value: Any) -> str:
    return shown(None) if value is None else f"{value:.1%}"
