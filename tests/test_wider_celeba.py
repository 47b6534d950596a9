"""`mtcnn_wider_celeba` end to end on drawn pictures that lie as the two data sets unpack, lengths cut to seconds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.io import savemat

from cascade_det.cli.app import main
from cascade_det.core.imaging import write_image
from cascade_det.data.shards import Pool, shards_in
from cascade_det.data.synthetic import Synthetic

ATTRIBUTES = ("blur", "expression", "illumination", "invalid", "occlusion", "pose")
SPLITS = {"train": "0", "val": "1", "test": "2"}
OVERRIDES = [
    "stages.pnet.train={samples: 30_000, batch_size: 256}", "stages.rnet.train={samples: 3_000, batch_size: 64}",
    "stages.onet.train={samples: 1_000, batch_size: 32}", "stages.rnet.net.params.alpha=0.5",
    "stages.onet.net.params.alpha=0.25", "stages.pnet.keep.max_per_image=60", "stages.rnet.keep.max_per_image=20",
    "mine.workers=1", "mine.val_images=4", "mine.min_positives=50", "mine.min_negatives=50", "train.validations=1",
    "pyramid.min_object_px=24", "train.trainer={accelerator: cpu, devices: 1}",
]  # fmt: skip


def cells(*content: Any) -> NDArray[np.object_]:
    """Return a column of a MATLAB cell array."""
    column = np.empty((len(content), 1), object)
    for row, item in enumerate(content):
        column[row, 0] = item
    return column


def write_wider(folder: Path, split: str, drawn: Synthetic) -> None:
    """Write a WIDER FACE: two events of pictures and the text annotation; for val the files of the toolbox too."""
    names, rows = [], []
    for index in range(len(drawn.pictures)):
        event = ("0--Parade", "12--Group")[index * 2 // len(drawn.pictures)]
        names.append(f"{event}/{event.replace('--', '_')}_drawn_{index}")
        write_image(folder / f"WIDER_{split}" / "images" / f"{names[-1]}.jpg", drawn.read(index))
        boxes = drawn.annotations(index).boxes
        whole = np.rint(np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)).astype(int)
        rows.append(np.concatenate([whole, np.zeros((len(whole), len(ATTRIBUTES)), int)], axis=1))
    lines = []
    for name, own in zip(names, rows, strict=True):
        lines += [f"{name}.jpg", str(len(own)), *(" ".join(map(str, row)) for row in own)]
        lines += [] if len(own) else [" ".join("0" * 10)]  # as the data set has it
    (folder / "wider_face_split").mkdir(exist_ok=True)
    (folder / "wider_face_split" / f"wider_face_{split}_bbx_gt.txt").write_text("\n".join(lines) + "\n")
    if split == "val":
        write_toolbox(folder / "ground_truth", names, rows)


def write_toolbox(folder: Path, names: Sequence[str], rows: Sequence[NDArray[Any]]) -> None:
    """Write the MATLAB files: at each level the faces of at least so many pixels count."""
    folder.mkdir()
    events = sorted({name.split("/")[0] for name in names})
    of_event = [[number for number, name in enumerate(names) if name.startswith(event)] for event in events]

    def nested(values: Sequence[Any]) -> NDArray[np.object_]:
        return cells(*(cells(*(values[number] for number in own)) for own in of_event))

    mat: dict[str, Any] = {"event_list": cells(*events), "file_list": nested([name.split("/")[1] for name in names])}
    mat["face_bbx_list"] = nested([own[:, :4].astype(np.int32) for own in rows])
    for column, name in enumerate(ATTRIBUTES, start=4):
        mat[f"{name}_label_list"] = nested([own[:, column : column + 1].astype(np.int32) for own in rows])
    savemat(folder / "wider_face_val.mat", mat)
    for level, height in (("easy", 50), ("medium", 30), ("hard", 10)):
        counted = [(np.flatnonzero(own[:, 3] >= height)[:, None] + 1).astype(np.int32) for own in rows]
        savemat(folder / f"wider_{level}_val.mat", {**mat, "gt_list": nested(counted)})


def write_celeba(folder: Path, drawn: dict[str, Synthetic]) -> None:
    """Write a CelebA: one annotated face a picture, its five points, and the partition into three splits."""
    boxes, points, partition = [], [], []
    for split, source in drawn.items():
        for index in range(len(source.pictures)):
            name = f"{len(boxes) + 1:06d}.jpg"
            write_image(folder / "Img" / "img_celeba" / name, source.read(index))
            truth = source.annotations(index)
            x0, y0, x1, y1 = np.rint(truth.boxes[0]).astype(int)
            boxes.append(f"{name} {x0} {y0} {x1 - x0} {y1 - y0}")
            points.append(" ".join([name, *map(str, np.rint(truth.points[0]).astype(int).ravel())]))
            partition.append(f"{name} {SPLITS[split]}")
    marks = [f"{mark}_{axis}" for mark in ("lefteye", "righteye", "nose", "leftmouth", "rightmouth") for axis in "xy"]
    lists = {
        "Anno/list_bbox_celeba.txt": [str(len(boxes)), "image_id x_1 y_1 width height", *boxes],
        "Anno/list_landmarks_celeba.txt": [str(len(points)), " ".join(marks), *points],
        "Eval/list_eval_partition.txt": partition,
    }
    for name, lines in lists.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(lines) + "\n")


@pytest.fixture
def two_sets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with both sets, which the variables name, as the current one."""
    small = {"size_hw": [120, 160], "object_px": [28, 80]}
    write_wider(tmp_path / "wider", "train", Synthetic(images=40, seed=1, objects=[0, 3], **small))  # type: ignore[arg-type]
    write_wider(tmp_path / "wider", "val", Synthetic(images=6, seed=2, objects=[0, 3], **small))  # type: ignore[arg-type]
    sizes = {"train": 2, "val": 24, "test": 4}
    write_celeba(
        tmp_path / "celeba",
        {s: Synthetic(images=n, seed=3 + n, objects=[1, 1], **small) for s, n in sizes.items()},  # type: ignore[arg-type]
    )
    monkeypatch.setenv("WIDER", str(tmp_path / "wider"))
    monkeypatch.setenv("CELEBA", str(tmp_path / "celeba"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_boxes_of_one_set_and_points_of_the_other(two_sets: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "mtcnn_wider_celeba", *OVERRIDES]) == 0
    told = capsys.readouterr().out
    assert "data.train.wider: 40 pictures" in told
    assert "data.train.celeba: 24 pictures, 24 objects" in told  # the one split that teaches
    assert main(["train", "mtcnn_wider_celeba", *OVERRIDES]) == 0

    run = two_sets / "runs" / "mtcnn_wider_celeba"
    pool = Pool(shards_in(run / "onet" / "mine" / "shards"))
    role, of_celeba = pool.role, pool.column("source") == 1
    assert set(role[of_celeba].tolist()) == {1, 2, 3}  # part, positive, points: no negative of a set half annotated
    assert set(role[~of_celeba].tolist()) == {0, 1, 2}  # no points where none are known
    known = pool.column("points_known").any(axis=1)
    assert known[of_celeba].all()
    assert not known[~of_celeba].any()

    metrics = json.loads((run / "metrics.json").read_text())
    assert list(metrics["sources"]) == ["easy", "medium", "hard"]
    assert metrics["nme_total"] == 0
    assert {"blur=0", "occlusion=0", "size=24-48"} <= metrics["groups"].keys()

    flags = ["--format", "celeba", "--images", "celeba", "--annotations", "celeba", "--param", "split=test"]
    assert main(["evaluate", str(run), *flags, "--device", "cpu", "--json", "celeba.json"]) == 0
    assert json.loads(Path("celeba.json").read_text())["nme_total"] == 4
