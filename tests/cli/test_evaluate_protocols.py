"""`evaluate --metrics`, `--group-by`, `--scales` and `--flip` through the front door; no network runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from numpy.typing import NDArray

import cascade_det
from cascade_det.cascade import Cascade
from cascade_det.cli.app import main
from cascade_det.core.imaging import Resampler, write_image
from cascade_det.core.schema import Part
from cascade_det.core.types import Detections
from cascade_det.data.formats.coco import Coco
from cascade_det.errors import DataError
from cascade_det.stages.base import StageSettings

HW = (60, 80)
WIDER = ["0--Parade/a", "0--Parade/b", "1--Riot/c"]
FDDB = ["2002/08/11/big/img_9", "2002/08/11/big/img_10", "2003/01/02/big/img_2"]  # in the order of the fold
FACE = [20, 15, 30, 30]  # x y width height


def answer(
    self: Cascade, pictures: Sequence[Resampler], settings: Sequence[StageSettings]
) -> Iterator[tuple[str, list[Detections], float]]:
    """Yield what the colour of a picture's corner decides: boxes about the face, and false ones."""
    found = []
    for picture in pictures:
        rng = np.random.default_rng(picture.level(picture.image_hw)[0, 0].astype(int))
        x, y, width, height = FACE
        boxes = np.array([x, y, x + width, y + height]) + rng.normal(0, 3, (8, 4)) + np.repeat([0, 15], 4)[:, None]
        points = np.full((8, 5, 2), 30) + np.arange(5)[None, :, None] + rng.normal(0, 1, (8, 5, 2))
        found.append(Detections(boxes, rng.random(8) * 0.5 + np.tile([0.5, 0], 4), points).sorted())
    for stage, values in zip(self.stages, settings, strict=False):
        yield stage.name, [own[own.scores >= values.score] for own in found], 0.001


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cascade, "run_stages", answer)


def cells(values: Sequence[Any]) -> NDArray[np.object_]:
    """Return a column of a MATLAB cell array."""
    column = np.empty((len(values), 1), object)
    for row, value in enumerate(values):
        column[row, 0] = value
    return column


def write_pictures(folder: Path, names: Sequence[str]) -> None:
    for number, name in enumerate(names):
        write_image(folder / f"{name}.jpg", np.full((*HW, 3), 40 * number + 10, np.uint8))


@pytest.fixture
def wider(tmp_path: Path) -> Path:
    """Return the layout of WIDER FACE: three pictures, each with a face that is easy and one that is hard."""
    write_pictures(tmp_path / "WIDER_val" / "images", WIDER)
    own = [[name.split("/")[1] for name in WIDER if name.startswith(event)] for event in ("0--Parade", "1--Riot")]
    boxes = [[np.array([FACE, [60, 40, 9, 9]], np.int32) for _ in names] for names in own]
    lists: dict[str, Any] = {
        "event_list": cells(["0--Parade", "1--Riot"]),
        "file_list": cells(list(map(cells, own))),
        "face_bbx_list": cells(list(map(cells, boxes))),
    }
    for number, name in enumerate(("blur", "expression", "illumination", "invalid", "occlusion", "pose")):
        labels = [[np.array([[0], [number == 4]], np.uint8) for _ in names] for names in own]
        lists[f"{name}_label_list"] = cells(list(map(cells, labels)))
    (tmp_path / "ground_truth").mkdir()
    scipy.io.savemat(tmp_path / "ground_truth" / "wider_face_val.mat", lists)
    for level, rows in (("easy", [1]), ("medium", [1]), ("hard", [1, 2])):
        counted = [[np.array(rows, np.uint8)[:, None] for _ in names] for names in own]
        content = {**lists, "gt_list": cells(list(map(cells, counted)))}
        scipy.io.savemat(tmp_path / "ground_truth" / f"wider_{level}_val.mat", content)
    lines = [f"{name}.jpg\n2\n20 15 30 30 0 0 0 0 0 0\n60 40 9 9 2 0 0 0 1 0\n" for name in WIDER]
    (tmp_path / "gt.txt").write_text("".join(lines))
    return tmp_path


@pytest.fixture
def fddb(tmp_path: Path) -> Path:
    """Return the layout of FDDB: one fold, of which the pictures stand in no order of their names."""
    write_pictures(tmp_path / "originalPics", FDDB)
    (tmp_path / "FDDB-folds").mkdir()
    lines = "".join(f"{name}\n1\n16.5 14.2 1.57 35 30  1\n" for name in FDDB)
    (tmp_path / "FDDB-folds" / "FDDB-fold-01-ellipseList.txt").write_text(lines)
    return tmp_path


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    """Return a truth in COCO's form with all that the others lack: points, visibility, fields."""
    write_pictures(tmp_path / "p", ["a", "b"])
    images = [
        {"id": n, "file_name": f"{name}.jpg", "width": HW[1], "height": HW[0], "source": name, "fold": n}
        for n, name in enumerate("ab")
    ]
    points = [value for k in range(5) for value in (30.0 + k, 30.0 + k, 2)]
    box = {"bbox": FACE, "category_id": 1, "iscrowd": 0, "area": 900, "keypoints": points}
    fields = [{"mask": True, "occlusion": 0, "vis_ratio": 0.9}, {"mask": False, "occlusion": 2, "vis_ratio": 0.3}]
    annotations = [{"id": n + 1, "image_id": n, **box, **own} for n, own in enumerate(fields)]
    categories = [{"id": 1, "name": "face"}]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    return tmp_path


def run(*words: object) -> int:
    return main([*map(str, words), "--device", "cpu"])


def figures(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_wider_by_detect_and_score_is_wider_by_evaluate(wider: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(wider)
    given = ["--format", "wider", "--images", "WIDER_val", "--annotations", "ground_truth"]
    assert run("evaluate", "mtcnn_face", *given, "--metrics", "wider,coco", "--out", "scored") == 0
    assert (
        run("detect", "mtcnn_face", "WIDER_val/images", "--out", "found", "--save-as", "wider", "--score", "0.05") == 0
    )
    evaluated = figures(wider / "scored" / "metrics.json")
    for predictions in ("found/wider", "found/detections.json", "scored/detections.json"):
        command = ["score", "wider", "--predictions", predictions, "--annotations", "ground_truth"]
        assert main([*command, "--json", "score.json"]) == 0
        assert figures(wider / "score.json") == {level: evaluated[level] for level in ("easy", "medium", "hard")}
    assert 0 < evaluated["hard"] < evaluated["easy"] < 1
    assert 0 < evaluated["coco"]["AP50"] < 1


def test_fddb_by_detect_and_score_is_fddb_by_evaluate(fddb: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(fddb)
    given = ["--format", "fddb", "--images", ".", "--annotations", "FDDB-folds"]
    assert run("evaluate", "mtcnn_face", *given, "--metrics", "fddb", "--out", "scored") == 0
    monkeypatch.chdir(fddb / "originalPics")  # so that the names in the file are those of the folds, in their order
    pictures = [f"{name}.jpg" for name in FDDB]
    assert run("detect", "mtcnn_face", *pictures, "--out", "../found", "--save-as", "fddb", "--score", "0.05") == 0
    evaluated = figures(fddb / "scored" / "metrics.json")
    for predictions in ("../found/fddb.txt", "../found/detections.json", "../scored/detections.json"):
        command = ["score", "fddb", "--predictions", predictions, "--annotations", "../FDDB-folds", "--images", "."]
        assert main([*command, "--json", "../score.json"]) == 0
        assert figures(fddb / "score.json") == {k: evaluated[k] for k in ("discrete_tpr_at", "lowest_threshold")}
    assert evaluated["lowest_threshold"]["discrete"] == 1


@pytest.mark.parametrize(("layout", "protocol"), [("wider", "wider"), ("fddb", "fddb"), ("coco", "points")])
def test_a_protocol_leaves_and_shows_its_curves(
    layout: str, protocol: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`curves.csv` holds the points that `score` gives for the same detections, and the report draws them."""
    monkeypatch.chdir(request.getfixturevalue(layout))
    images, annotations = {
        "wider": ["WIDER_val", "ground_truth"], "fddb": [".", "FDDB-folds"], "coco": ["p", "truth.json"]
    }[layout]  # fmt: skip
    given = ["--format", layout, "--images", images, "--annotations", annotations, "--out", "scored"]
    assert run("evaluate", "mtcnn_face", *given, "--metrics", f"coco,{protocol}") == 0
    truth = "scored/truth.json" if layout == "coco" else annotations
    command = ["score", protocol, "--predictions", "scored/detections.json", "--annotations", truth, "--out", "given"]
    assert main([*command, *(["--images", "originalPics"] if layout == "fddb" else [])]) == 0
    given_rows = Path("given/curves.csv").read_text().splitlines()[1:]
    rows = [row.split(",") for row in Path("scored/curves.csv").read_text().splitlines()[1:]]
    assert {row[0] for row in rows} == {protocol}
    assert [[*row[1:3], *row[-2:]] for row in rows] == [row.split(",") for row in given_rows]
    assert len(rows) > 2
    assert f"By the protocol {protocol}" in Path("scored/report.html").read_text()

    assert run("evaluate", "mtcnn_face", *given) == 0
    assert not Path("scored/curves.csv").exists()
    assert "By the protocol" not in Path("scored/report.html").read_text()


def test_several_protocols_at_once(
    coco: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(coco)
    given = ["--images", "p", "--annotations", "truth.json", "--out", "scored"]
    assert run("evaluate", "mtcnn_face", *given, "--metrics", "coco,wider,miss-rate,points") == 0
    out, err = capsys.readouterr()
    metrics = figures(coco / "scored" / "metrics.json")
    assert {"AP", "AP50", "recall_at_fppi", "coco12", "funnel", "settings"} <= set(metrics)
    assert list(metrics["wider"]) == ["all", "warnings"]
    lines = out.splitlines()
    starts = ["truth: AP ", "truth: WIDER FACE AP all ", "truth: MR-2 Reasonable ", "truth: points: NME "]
    assert [line.startswith(start) for line, start in zip(lines, starts, strict=False)] == [True] * 4
    assert "warning: The truth has no levels of WIDER FACE" in err
    assert "2 pictures in " in err
    assert err.count(" pictures a second") == 1
    for protocol in ("miss-rate", "points"):  # equal on the files that evaluate leaves
        command = ["score", protocol, "--predictions", "scored/detections.json", "--annotations", "scored/truth.json"]
        assert main([*command, "--json", "score.json"]) == 0
        assert figures(coco / "score.json") == {k: v for k, v in metrics[protocol].items() if k != "warnings"}
    assert run("evaluate", "mtcnn_face", *given, "--metrics", "points,coco") == 0
    second = figures(coco / "scored" / "metrics.json")
    assert second["nme"] == metrics["points"]["nme"]
    assert second["coco"]["AP50"] == metrics["AP50"]


def test_an_object_without_visibility_counts_as_visible(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some objects may lack a number that others have: `evaluate` scores them as `score` does, on its own truth too."""
    monkeypatch.chdir(coco)
    truth = figures(coco / "truth.json")
    del truth["annotations"][0]["vis_ratio"], truth["annotations"][1]["area"]
    (coco / "truth.json").write_text(json.dumps(truth))
    given = ["--images", "p", "--annotations", "truth.json", "--metrics", "coco,miss-rate", "--out", "scored"]
    assert run("evaluate", "mtcnn_face", *given) == 0
    evaluated = figures(coco / "scored" / "metrics.json")["miss-rate"]
    for file in ("truth.json", "scored/truth.json"):
        command = ["score", "miss-rate", "--predictions", "scored/detections.json", "--annotations", file]
        assert main([*command, "--json", "score.json"]) == 0
        assert figures(coco / "score.json") == {k: v for k, v in evaluated.items() if k != "warnings"}
    written = figures(coco / "scored" / "truth.json")["annotations"]
    assert [(own.get("vis_ratio"), own["area"]) for own in written] == [(None, 900), (0.3, 900)]


def test_from_python_as_from_the_command_line(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recipe of the shipped model groups by `source`; a truth without this field has no such groups."""
    monkeypatch.chdir(coco)
    truth = figures(coco / "truth.json")
    for picture in truth["images"]:
        del picture["source"]
    (coco / "truth.json").write_text(json.dumps(truth))
    source = Coco(images="p", annotations="truth.json", category="face", num_points=5)
    from_python = cascade_det.evaluate(Cascade.load("mtcnn_face", device="cpu"), source)
    assert run("evaluate", "mtcnn_face", "--images", "p", "--annotations", "truth.json", "--json", "told.json") == 0
    told = figures(coco / "told.json")
    assert {"AP", "recall_at_fppi", "nme", "funnel", "settings"} <= set(from_python)
    assert from_python["AP"] == told["AP"]
    assert from_python["funnel"] == told["funnel"]


def test_python_refuses_before_it_reads(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(coco)
    monkeypatch.setattr("cascade_det.data.formats.picture_files.read_image", lambda *_: pytest.fail("read"))
    cascade = Cascade.load("mtcnn_face", device="cpu")
    cascade.recipe.evaluate["ellipses"] = Part("fddb", {})
    with pytest.raises(DataError, match="the metric fddb compares with FDDB's ellipses"):
        cascade_det.evaluate(cascade, Coco(images="p", annotations="truth.json", category="face", num_points=5))


@pytest.mark.parametrize(
    ("data_format", "flags", "told"),
    [
        ("coco", "--metrics fddb", "the metric fddb compares with FDDB's ellipses"),
        ("wider", "--metrics points", "the metric points compares with points of the truth, and none of its objects"),
        ("wider", "--metrics wide", "did you mean 'wider'? Choices: coco, fddb, miss-rate, points, wider"),
        ("wider", "--metrics wider,wider", "--metrics wider,wider: name each once"),
        ("wider", "--metrics wider --group-by size", "--group-by size: splits the figures of coco; add it"),
        ("coco", "--group-by colour,size", "group_by='colour'"),
        ("coco", "--scales 1,x", "--scales 1,x: give numbers between commas, such as 0.5,1,2"),
        ("coco", "--scales 1,1", "--scales 1,1: scales 1, 1: name each once"),
        ("coco", "--scales 0", "--scales 0: scale 0 must lie in 0.1 to 10"),
    ],
)
def test_what_is_refused_before_a_picture_is_read(
    data_format: str, flags: str, told: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(request.getfixturevalue(data_format))
    monkeypatch.setattr("cascade_det.data.formats.picture_files.read_image", lambda *_: pytest.fail("read"))
    sets = {"coco": ["p", "truth.json"], "wider": ["WIDER_val", "ground_truth"]}
    images, annotations = sets[data_format]
    given = ["--format", data_format, "--images", images, "--annotations", annotations, "--out", "out"]
    assert run("evaluate", "mtcnn_face", *given, *flags.split()) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "Traceback" not in err
    assert not list(Path("out").iterdir() if Path("out").exists() else [])


def test_a_model_without_points(
    coco: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cascade = Cascade.load("mtcnn_face", device="cpu")
    cascade.stages[0].num_points = None
    monkeypatch.setattr("cascade_det.cli.evaluate_verb.load", lambda *_: cascade)
    monkeypatch.chdir(coco)
    given = ["--images", "p", "--annotations", "truth.json", "--metrics", "points", "--json", "e.json"]
    assert run("evaluate", "mtcnn_face", *given) == 0
    assert run("evaluate", "mtcnn_face", *given, "--upto", "pnet") == 2
    assert "--metrics points: the stage 'pnet' of this model finds no points" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("data_format", "fields", "groups"),
    [
        ("wider", "event,occlusion,blur", ["event=0--Parade", "event=1--Riot", "occlusion=0", "occlusion=1", "blur=0",
         "blur=2"]),
        ("wider", "expression", ["0"]),
        ("fddb", "fold, size", ["fold=1", "size=12-24", "size=24-48", "size=48-96", "size=96+"]),
        ("coco", "source,mask", ["source=a", "source=b", "mask=False", "mask=True"]),
        ("coco", "occlusion,fold", ["occlusion=0", "occlusion=2", "fold=0", "fold=1"]),
        ("coco", "vis_ratio", ["0.3", "0.9"]),
        ("voc", "truncated,occluded,pose,size", ["truncated=0", "truncated=1", "occluded=0", "pose=Frontal",
         "size=12-24", "size=24-48", "size=48-96", "size=96+"]),
    ],
)  # fmt: skip
def test_groups_by_the_fields_of_each_format(
    data_format: str, fields: str, groups: list[str], request: pytest.FixtureRequest, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    if data_format == "voc":
        write_pictures(tmp_path / "p", ["a", "b"])
        for number, name in enumerate("ab"):
            more = f"<pose>Frontal</pose><truncated>{number}</truncated>" + "<occluded>0</occluded>" * number
            box = "<bndbox><xmin>21</xmin><ymin>16</ymin><xmax>50</xmax><ymax>45</ymax></bndbox>"
            text = f"<annotation><object><name>face</name>{more}{box}</object></annotation>"
            (tmp_path / "x").mkdir(exist_ok=True)
            (tmp_path / "x" / f"{name}.xml").write_text(text)
    else:
        request.getfixturevalue(data_format)
    sets = {
        "wider": ["WIDER_val", "gt.txt"], "fddb": [".", "FDDB-folds"], "coco": ["p", "truth.json"], "voc": ["p", "x"]
    }  # fmt: skip
    images, annotations = sets[data_format]
    given = ["--format", data_format, "--images", images, "--annotations", annotations, "--group-by", fields]
    assert run("evaluate", "mtcnn_face", *given, "--json", "e.json") == 0
    metrics = figures(tmp_path / "e.json")
    assert list(metrics["groups"]) == groups
    out = capsys.readouterr().out
    assert all(f"  {name}: AP " in out for name in groups)
    for field in fields.replace(" ", "").split(","):  # the objects of a field's groups are all that have it
        own = [g for name, g in metrics["groups"].items() if name.startswith(f"{field}=") or "=" not in name]
        known = {"occluded": 1, "wider": 6, "fddb": 3}.get(field if field == "occluded" else data_format, 2)
        if field != "size":
            assert sum(group["objects"] for group in own) == known
        assert all(-1 <= group["AP50"] <= 1 for group in own)


def test_scales_and_flip_are_recorded(coco: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(coco)
    given = ["--images", "p", "--annotations", "truth.json"]
    seen = {}
    for name, flags in {"plain": [], "one": ["--scales", "1"], "more": ["--scales", "1,2", "--flip"]}.items():
        assert run("evaluate", "mtcnn_face", *given, *flags, "--json", f"{name}.json") == 0
        seen[name] = figures(coco / f"{name}.json")
        del seen[name]["timing"]
    assert seen["plain"] == seen["one"]
    assert "scales" not in seen["plain"]["settings"]
    assert seen["more"]["settings"]["scales"] == [1, 2]
    assert seen["more"]["settings"]["flip"] is True
    first = [seen[name]["funnel"][0]["candidates_out"] for name in ("plain", "more")]
    assert first[1] == 4 * first[0]


def test_an_interruption_says_what_goes_on(
    coco: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> Callable[..., None]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Cascade, "run_stages", interrupt)
    monkeypatch.chdir(coco)
    words = ["evaluate", "mtcnn_face", "--images", "p", "--annotations", "truth.json"]
    for more, told in (
        (["--out=x"], "the same command with --resume goes on where it stopped"),
        ([], "nothing was finished"),
    ):
        assert run(*words, *more) == 130
        assert capsys.readouterr().err.splitlines()[-1] == f"interrupted; {told}"
