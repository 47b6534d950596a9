"""The figures of `metrics.json` as rows of text: the main ones, groups, the funnel, and published ones beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

ABSENT = "–"
# the key of `metrics.json` (nested ones as a path) and what people call it
MAIN_FIGURES: Mapping[tuple[str, ...], str] = {
    ("AP",): "AP",
    ("AP50",): "AP50",
    ("AP75",): "AP75",
    ("AR",): "AR",
    ("recall_at_fppi", "0.1"): "Recall at 0.1 FPPI",
    ("recall_at_fppi", "1"): "Recall at 1 FPPI",
    ("nme",): "NME of points",
}
_HEADLINE = ("AP50", "AP", "Recall at 0.1 FPPI", "Recall at 1 FPPI", "NME of points")
_PERCENT = {("nme",), ("points", "nme")}
_OWN_TABLES = {"coco12", "groups", "sources", "funnel", "settings"}
_MOST_FURTHER = 60


@dataclass(frozen=True)
class Published:
    """A figure that its authors state for a protocol on the whole of its pictures.

    Attributes:
        protocol: for people.
        key: of the protocol's figures.
        value: a share.
        who: model and source.
        pictures: how many the protocol has; figures on a part of them are no match.
        evaluator: name that the protocol's figures stand under, where they are not those of the top level.
    """

    protocol: str
    key: tuple[str, ...]
    value: float
    who: str
    pictures: int
    evaluator: str


_MTCNN = "MTCNN, as published (Zhang et al. 2016)"
PUBLISHED = (
    Published("WIDER FACE val, easy: AP", ("easy",), 0.848, _MTCNN, 3226, "wider"),
    Published("WIDER FACE val, medium: AP", ("medium",), 0.825, _MTCNN, 3226, "wider"),
    Published("WIDER FACE val, hard: AP", ("hard",), 0.598, _MTCNN, 3226, "wider"),
    Published(
        "FDDB, discrete: true positive rate at 1,000 false positives",
        ("discrete_tpr_at", "1000"), 0.9504, _MTCNN, 2845, "fddb",
    ),
)  # fmt: skip


def value_at(figures: Any, path: Sequence[str]) -> Any:
    """Return what stands at a path of nested mappings, None where there is nothing."""
    for key in path:
        if not isinstance(figures, Mapping):
            return None
        figures = figures.get(key)
    return figures


def shown(value: Any, *, percent: bool = False, decimals: int = 3) -> str:
    """Return a figure as text: three decimals; a dash for None and for -1, which says that nothing counts."""
    if value is None or value == -1:
        return ABSENT
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if percent:
        return f"{value:.2f} %"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{decimals}f}"


def figure_rows(sources: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return name and value of each figure, a column a source: the main ones, counts, then what else there is."""
    columns = list(sources.values())
    rows = [
        (name, [_with_interval(column, path) for column in columns])
        for path, name in MAIN_FIGURES.items()
        if any(value_at(column, path) is not None for column in columns)
    ]
    if any(column.get("nme_total") for column in columns):
        rows.append(("Objects with measured points", [_measured(column) for column in columns]))
    for key, name in (("images", "Pictures"), ("unreadable", "Unreadable pictures")):
        values = [value_at(column, ("settings", key)) for column in columns]
        if any(values) or key == "images":
            rows.append((name, [shown(value) for value in values]))
    return rows + _further(columns)


def _with_interval(column: Mapping[str, Any], path: tuple[str, ...]) -> str:
    ends = value_at(column, ("intervals", *path))
    interval = f" [{shown(ends[0])}, {shown(ends[1])}]" if ends else ""
    return shown(value_at(column, path), percent=path in _PERCENT) + interval


def _measured(column: Mapping[str, Any]) -> str:
    return f"{shown(column.get('nme_matched'))} of {shown(column.get('nme_total'))}"


def _further(columns: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """Return the figures of further evaluators, named by the path to them."""
    known = {*MAIN_FIGURES, ("nme_matched",), ("nme_total",)}
    flat = [flattened({key: v for key, v in column.items() if key not in _OWN_TABLES}) for column in columns]
    paths = dict.fromkeys(path for column in flat for path in column if path not in known)
    return [
        (" ".join(path), [shown(column.get(path), percent=path in _PERCENT) for column in flat])
        for path in list(paths)[:_MOST_FURTHER]
    ]


def flattened(values: Mapping[str, Any], above: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Return the leaves of nested mappings under the paths to them; lists are no leaves and left out."""
    flat: dict[tuple[str, ...], Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flattened(value, (*above, str(key)))
        elif not isinstance(value, list):
            flat[(*above, str(key))] = value
    return flat


def headline(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return name and value of the few figures that stand above all."""
    named = {name: path for path, name in MAIN_FIGURES.items()}
    values = [(name, value_at(figures, named[name]), named[name]) for name in _HEADLINE]
    return [(name, shown(value, percent=path in _PERCENT)) for name, value, path in values if value is not None]


def published_rows(name: str, figures: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Return (protocol, this model's figure, the published one, whose it is) where both mean the same.

    That is: the figure of the protocol's own evaluator, on as many pictures as the protocol has.

    Args:
        name: of the source, set before the protocol where it is not "".
        figures: of one source.
    """
    images = value_at(figures, ("settings", "images"))
    rows = []
    for entry in PUBLISHED:
        own = value_at(figures, (entry.evaluator, *entry.key))
        own = value_at(figures, entry.key) if own is None else own  # the first evaluator stands at the top level
        if images == entry.pictures and isinstance(own, float) and own >= 0:
            protocol = f"{name}: {entry.protocol}" if name else entry.protocol
            rows.append((protocol, shown(own, decimals=4), f"{entry.value:g}", entry.who))
    return rows


def group_rows(figures: Mapping[str, Any]) -> list[list[str]]:
    """Return a row of text a group: name, pictures, objects, then the main figures but AR."""
    paths = [path for path in MAIN_FIGURES if path != ("AR",)]
    return [
        [str(name), shown(group.get("images")), shown(group.get("objects"))]
        + [shown(value_at(group, path), percent=path in _PERCENT) for path in paths]
        for name, group in figures.get("groups", {}).items()
    ]


GROUP_COLUMNS = ["Group", "Pictures", "Objects", *(name for path, name in MAIN_FIGURES.items() if path != ("AR",))]


@dataclass(frozen=True)
class FunnelTables:
    """The funnel as text: a row a stage, and by height of objects what each stage still holds and what it lost.

    Attributes:
        stages: stage, threshold, candidates in and out a picture, recall, precision, objects lost, ms a picture.
        sizes: names of the bands of height in px, those without an object left out.
        by_size: stage, then for each band (recall, objects lost there).
        objects: of each band.
    """

    stages: list[list[str]]
    sizes: list[str]
    by_size: list[tuple[str, list[tuple[str, str]]]]
    objects: list[str]


def funnel_tables(rows: Sequence[Mapping[str, Any]], objects_by_size: Mapping[str, int]) -> FunnelTables:
    """Return the funnel of `metrics.json` as tables.

    Args:
        rows: one a stage.
        objects_by_size: how many counted objects each band of height has.
    """
    sizes = [name for name, count in objects_by_size.items() if count]
    return FunnelTables(
        [
            [
                str(row["stage"]),
                shown(row.get("score")),
                shown(row.get("candidates_in"), decimals=1),
                shown(row.get("candidates_out"), decimals=1),
                shown(row.get("recall")),
                shown(row.get("precision")),
                shown(row.get("lost")),
                shown(row.get("ms_per_image"), decimals=1),
            ]
            for row in rows
        ],
        sizes,
        [
            (str(row["stage"]), [
                (shown(value_at(row, ("recall_by_size", size))), shown(value_at(row, ("lost_by_size", size))))
                for size in sizes
            ])
            for row in rows
        ],
        [shown(objects_by_size[size]) for size in sizes],
    )  # fmt: skip
