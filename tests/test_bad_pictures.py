"""Pictures that are damaged, of unusual kinds, tiny, huge or no pictures: each gets a result or a reason."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from cascade_det.cascade import Cascade
from cascade_det.cli.app import main
from cascade_det.core.imaging import write_image
from cascade_det.core.types import MAX_PIXELS
from cascade_det.data.synthetic import Synthetic
from cascade_det.errors import DataError

Pixels = NDArray[np.uint8]
FACES: Pixels = Synthetic(images=1, size_hw=(96, 128), objects=(2, 2), object_px=(36, 60), seed=4).read(0)


def encoded(kind: str, picture: Image.Image | None = None, **options: Any) -> bytes:
    buffer = io.BytesIO()
    (picture or Image.fromarray(FACES)).save(buffer, kind, **options)
    return buffer.getvalue()


def detected(folder: Path) -> dict[str, list[Any]]:
    """Return (bbox, score) of all objects that a verb wrote, by the name of the picture's file."""
    names = {row["id"]: Path(row["path"]).name for row in json.loads((folder / "images.json").read_text())}
    found: dict[str, list[Any]] = {name: [] for name in names.values()}
    for row in json.loads((folder / "detections.json").read_text()):
        found[names[row["image_id"]]].append([*row["bbox"], row["score"]])
    return found


def failures(folder: Path) -> dict[str, str]:
    """Return the reason by file name."""
    with (folder / "errors.csv").open(newline="") as file:
        return {Path(row["path"]).name: row["reason"] for row in csv.DictReader(file)}


# file name: content (None: a folder of this name), part of the reason
BAD: dict[str, tuple[bytes | None, str]] = {
    "empty.jpg": (b"", "the file is empty"),
    "text.jpg": (b"just words, no picture", "it begins with b'just words, '"),
    "folder.jpg": (None, "cannot be read (Is a directory)"),
    "head.jpg": (encoded("JPEG")[:20], "not a readable picture"),
    "start.jpg": (b"\xff\xd8\xff", "not a readable picture"),
    "cut.jpg": (encoded("JPEG")[:-900], "not a readable picture (image file is truncated"),
    "cut.png": (encoded("PNG")[:-900], "not a readable picture (image file is truncated"),
    "cut.webp": (encoded("WEBP")[:-900], "not a readable picture"),
}


def write_bad(folder: Path) -> None:
    for name, (content, _) in BAD.items():
        if content is None:
            (folder / name).mkdir(parents=True)
        else:
            (folder / name).write_bytes(content)


class TestUnreadable:
    def test_detect_lists_each_and_goes_on(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder, out = tmp_path / "in", tmp_path / "out"
        for name in ("a.png", "z.png"):
            write_image(folder / name, FACES)
        write_bad(folder)
        assert main(["detect", "mtcnn_face", str(folder), "--out", str(out)]) == 1
        reasons = failures(out)
        assert set(reasons) == set(BAD)
        assert {name: why for name, (_, why) in BAD.items() if why not in reasons[name]} == {}
        assert not any(" at 0x" in reason for reason in reasons.values())  # the same text in every run
        found = detected(out)
        assert list(found) == ["a.png", "z.png"]
        assert found["a.png"] == found["z.png"] != []
        err = capsys.readouterr().err
        assert "Traceback" not in err
        assert f"{len(BAD)} could not be read" in err

    def test_nothing_else_is_no_crash(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "empty.jpg").write_bytes(b"")
        assert main(["detect", "mtcnn_face", str(tmp_path / "empty.jpg")]) == 1
        assert "empty.jpg: the file is empty" in capsys.readouterr().err

    @pytest.fixture
    def recipe(self, tiny_recipe: Callable[[], Path], tmp_path: Path) -> Path:
        """Return a recipe that trains on four whole pictures, all bad ones and one above its cap."""
        drawn = Synthetic(images=5, size_hw=(96, 128), objects=(1, 3), object_px=(24, 64), seed=9)
        data: dict[str, Any] = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "face"}]}
        names = [*(f"{number}.png" for number in range(4)), "large.png", *BAD]
        for number, name in enumerate(names):
            large = name == "large.png"
            hw = (97, 128) if large else (96, 128)
            if number < 5:
                image = drawn.read(number)
                write_image(tmp_path / "faces" / name, np.pad(image, ((0, int(large)), (0, 0), (0, 0))))
            data["images"].append({"id": number, "file_name": name, "width": hw[1], "height": hw[0]})
            for box in drawn.annotations(min(number, 4)).boxes.astype(float):
                bbox = [*box[:2].tolist(), *(box[2:] - box[:2]).tolist()]
                row = {"id": len(data["annotations"]) + 1, "image_id": number, "category_id": 1, "bbox": bbox}
                data["annotations"].append({**row, "iscrowd": 0})
        write_bad(tmp_path / "faces")
        (tmp_path / "truth.json").write_text(json.dumps(data))
        path = tiny_recipe()
        before, after = path.read_text().split("  train:\n    drawn:")
        params = f"{{images: {tmp_path / 'faces'}, annotations: {tmp_path / 'truth.json'}}}"
        train = f"  train:\n    files: {{kind: coco, params: {params}}}\n"
        path.write_text(before + train + after[after.index("  val:") :])
        return path

    def test_check_names_each(self, recipe: Path, tmp_path: Path) -> None:
        arguments = ["check", str(recipe), f"image.max_pixels={96 * 128}", "--json", str(tmp_path / "c.json")]
        assert main(arguments) == 1
        problems = json.loads((tmp_path / "c.json").read_text())["problems"]
        silent = [name for name in BAD if not any(name in problem for problem in problems)]
        assert silent == []
        assert any("128 x 97 px is above the cap of 12,288 pixels" in problem for problem in problems)

    def test_mining_skips_and_counts(self, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        small = ["mine.min_positives=1", "mine.min_negatives=1", "mine.val_images=1", "mine.shard_images=3"]
        cap = f"image.max_pixels={96 * 128}"
        assert main(["train", str(recipe), *small, cap, "--stage", "pnet", "--step", "mine"]) == 1
        count = len(BAD) + 1
        assert f"pnet: skipped {count} unreadable pictures" in capsys.readouterr().err
        shards = tmp_path / "new_run" / "pnet" / "mine" / "shards"
        manifests = [json.loads(path.read_text()) for path in sorted(shards.glob("0*/manifest.json"))]
        assert sum(manifest["skipped"] for manifest in manifests) == count
        assert sum(manifest["images"] for manifest in manifests) == count + 4


def transparent_palette() -> tuple[Image.Image, Pixels]:
    """Return the picture with 32 colours, the most frequent of them clear, and what it looks like over black."""
    picture = Image.fromarray(FACES).quantize(32)
    index = np.asarray(picture)
    clear = int(np.bincount(index.ravel()).argmax())
    plain = np.array(picture.convert("RGB"))
    plain[index == clear] = 0
    picture.info["transparency"] = clear
    return picture, plain


def grey_rgb(grey: Any) -> Pixels:
    return np.repeat(np.asarray(grey, np.uint8)[:, :, None], 3, axis=2)


def over_black(rgb: Pixels, alpha: Pixels) -> Pixels:
    return np.round(rgb * (alpha[:, :, None] / 255)).astype(np.uint8)


def decoded(data: bytes) -> Pixels:
    """Return a JPEG's pixels as Pillow decodes them, without turning."""
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


# how a picture is stored so that the EXIF orientation turns it upright
STORED: dict[int, Callable[[Any], Any]] = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


def turned(orientation: int, kind: str = "PNG") -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(kind, Image.fromarray(np.ascontiguousarray(STORED[orientation](FACES))), exif=exif)


def kinds() -> dict[str, tuple[bytes, Pixels]]:
    """Return each kind of file and the plain RGB picture that it stands for."""
    rgb = Image.fromarray(FACES)
    grey = np.asarray(rgb.convert("L"))
    ramp = np.tile(np.linspace(120, 255, FACES.shape[1]).astype(np.uint8), (FACES.shape[0], 1))
    deep = (grey.astype(np.uint16) << 8) + 200 - grey // 2  # no multiples of 257
    grey_alpha = Image.merge("LA", [Image.fromarray(grey), Image.fromarray(ramp)])
    clear, over = transparent_palette()
    palette = rgb.quantize(64)
    deep_rgb = cv2.imencode(".png", FACES[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes()
    jpegs = {"jpeg": rgb, "grey jpeg": rgb.convert("L"), "cmyk jpeg": rgb.convert("CMYK")}
    return {
        "grey": (encoded("PNG", Image.fromarray(grey)), grey_rgb(grey)),
        "rgba": (encoded("PNG", Image.fromarray(np.dstack([FACES, ramp]))), over_black(FACES, ramp)),
        "la": (encoded("PNG", grey_alpha), over_black(grey_rgb(grey), ramp)),
        "palette": (encoded("PNG", palette), np.array(palette.convert("RGB"))),
        "palette, one clear": (encoded("PNG", clear), over),
        "palette gif": (encoded("GIF", palette), np.array(palette.convert("RGB"))),
        "16 bit grey": (encoded("PNG", Image.fromarray(deep)), grey_rgb(np.round(deep / 257))),
        "16 bit rgb": (deep_rgb, FACES),
        **{f"exif {n}": (turned(n), FACES) for n in STORED},
        "exif jpeg": (turned(6, "JPEG"), np.rot90(decoded(turned(6, "JPEG")), -1)),
        **{name: (encoded("JPEG", picture), decoded(encoded("JPEG", picture))) for name, picture in jpegs.items()},
    }  # fmt: skip


KINDS = kinds()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    """Return what is detected in each kind and in its plain twin; the suffix says nothing."""
    folder, out = tmp_path_factory.mktemp("kinds"), tmp_path_factory.mktemp("found")
    for name, (data, plain) in KINDS.items():
        (folder / f"{name}.png").write_bytes(data)
        write_image(folder / f"{name}, plain.png", np.ascontiguousarray(plain))
    assert main(["detect", "mtcnn_face", str(folder), "--out", str(out), "--score", "0.3"]) == 0
    return detected(out)


class TestKinds:
    @pytest.mark.parametrize("name", list(KINDS))
    def test_the_same_detections_as_its_plain_twin(self, found: dict[str, list[Any]], name: str) -> None:
        assert len(found[f"{name}.png"]) > 0
        np.testing.assert_allclose(found[f"{name}.png"], found[f"{name}, plain.png"], atol=1e-6)


@pytest.fixture(scope="module")
def mosaic() -> Pixels:
    """Return 3,000 x 3,000 px of drawn pictures."""
    cells = Synthetic(images=9, size_hw=(1000, 1000), objects=(4, 8), object_px=(30, 300), seed=3)
    rows = [np.concatenate([cells.read(3 * row + column) for column in range(3)], axis=1) for row in range(3)]
    return np.concatenate(rows)


class TestSizes:
    @pytest.mark.parametrize(
        ("hw", "min_object"),
        [
            ((1, 1), "15"),
            ((1, 1), "1"),  # a level of 12 x 12 px
            ((1, 5000), "15"),
            ((1, 5000), "1"),
            ((5000, 1), "15"),
            ((5000, 1), "1"),
            ((11, 11), "15"),
            ((11, 300), "4"),
            ((12, 12), "12"),
            ((14, 40_000), "14"),  # longer than OpenCV's remap takes
            ((1, 1_500_000), "15"),  # longer than OpenCV decodes
        ],
    )
    def test_empty_or_normal(self, tmp_path: Path, hw: tuple[int, int], min_object: str) -> None:
        picture = np.random.default_rng(0).integers(0, 256, (*hw, 3), np.uint8)
        Image.fromarray(picture).save(tmp_path / "a.png")
        arguments = ["detect", "mtcnn_face", str(tmp_path / "a.png"), "--out", str(tmp_path / "out")]
        assert main([*arguments, "--min-object", min_object, "--score", "0.1"]) == 0
        rows = np.array(detected(tmp_path / "out")["a.png"]).reshape(-1, 5)
        assert (rows[:, :2] >= 0).all()
        assert (rows[:, :2] + rows[:, 2:4] <= np.array(hw[::-1]) + 1e-3).all()

    def test_a_face_at_the_end_of_a_very_long_picture(self) -> None:
        wide = np.full((96, 40_000, 3), 90, np.uint8)
        wide[:, -128:] = FACES
        (found,) = Cascade.load("mtcnn_face").batch([wide], min_object_px=30, score=0.3)
        assert (found.boxes[:, 0] > 40_000 - 128).any()

    def test_tiles_change_nothing(self, mosaic: Pixels, monkeypatch: pytest.MonkeyPatch) -> None:
        cascade, found = Cascade.load("mtcnn_face", device="cpu"), []
        for pass_pixels in (1 << 30, 1 << 18):
            monkeypatch.setattr("cascade_det.stages.proposer._PASS_PIXELS", pass_pixels)
            found.append(cascade(mosaic, min_object_px=24))
        whole, tiled = found
        assert len(whole) > 10
        np.testing.assert_allclose(tiled.scores, whole.scores, atol=1e-5)
        np.testing.assert_allclose(tiled.boxes, whole.boxes, atol=0.01)

    def test_memory_is_bounded(self, mosaic: Pixels, tmp_path: Path) -> None:
        write_image(tmp_path / "mosaic.jpg", mosaic)
        code = f"""
import resource
from cascade_det import Cascade
from cascade_det.stages import proposer
proposer._PASS_PIXELS = 1 << 18
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
cascade = Cascade.load("mtcnn_face", device="cpu", threads=1)
cascade({str(tmp_path / "mosaic.jpg")!r}, min_object_px=400)
before = peak()
cascade({str(tmp_path / "mosaic.jpg")!r})
print(peak() - before)
"""
        assert float(run(code)) < 200  # MiB: about 80, and 420 with whole levels


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout


def png_header(height: int, width: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + encoded("PNG")[33:]
    )


def patched(kind: str, place: int, value: bytes) -> bytes:
    data = encoded(kind)
    return data[:place] + value + data[place + len(value) :]


JPEG_SIZE = encoded("JPEG").index(b"\xff\xc0") + 5
# small files whose headers claim billions of pixels
CLAIMS = {
    "claim.png": png_header(1_000_000, 1_000_000),
    "claim.jpg": patched("JPEG", JPEG_SIZE, b"\xff\xff\xff\xff"),
    "claim.bmp": patched("BMP", 18, struct.pack("<ii", 200_000, 200_000)),
    "claim.gif": patched("GIF", 6, b"\xff\xff\xff\xff"),
    "claim.ppm": b"P6 100000 100000 255\n" + bytes(100),
}


class TestPixelCap:
    def test_a_claim_is_refused_without_allocating(self, tmp_path: Path) -> None:
        for name, data in CLAIMS.items():
            (tmp_path / name).write_bytes(data)
        assert max(map(len, CLAIMS.values())) < 50_000
        code = f"""
import resource
from pathlib import Path
from cascade_det import read_image
from cascade_det.errors import DataError
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
before, folder = peak(), Path({str(tmp_path)!r})
for name in {list(CLAIMS)!r}:
    try:
        read_image(folder / name)
    except DataError as error:
        print(name, "above the cap of {MAX_PIXELS:,} pixels" in str(error))
print(peak() - before < 50)
"""
        assert run(code).split() == [*(word for name in CLAIMS for word in (name, "True")), "True"]

    def test_detect_lists_it(self, tmp_path: Path) -> None:
        (tmp_path / "claim.png").write_bytes(CLAIMS["claim.png"])
        assert main(["detect", "mtcnn_face", str(tmp_path / "claim.png"), "--out", str(tmp_path / "out")]) == 1
        assert "1000000 x 1000000 px is above the cap" in failures(tmp_path / "out")["claim.png"]

    @pytest.fixture
    def capped(self, tmp_path: Path) -> Path:
        """Return a model whose recipe takes pictures of 96 x 128 px at most."""
        cascade = Cascade.load("mtcnn_face")
        assert cascade.recipe.image.max_pixels == MAX_PIXELS  # a model from before the key
        image = dataclasses.replace(cascade.recipe.image, max_pixels=96 * 128)
        changed = Cascade(dataclasses.replace(cascade.recipe, image=image), cascade.stages, cascade.thresholds)
        changed.save(tmp_path / "capped.safetensors")
        return tmp_path / "capped.safetensors"

    def test_it_travels_with_the_model(self, capped: Path, tmp_path: Path) -> None:
        large = np.pad(FACES, ((0, 1), (0, 0), (0, 0)))
        write_image(tmp_path / "in" / "fits.png", FACES)
        write_image(tmp_path / "in" / "large.png", large)
        told = "128 x 97 px is above the cap of 12,288 pixels; scale it down first, or raise image.max_pixels"
        out = tmp_path / "out"
        assert main(["detect", str(capped), str(tmp_path / "in"), "--out", str(out)]) == 1
        assert list(failures(out)) == ["large.png"]
        assert told in failures(out)["large.png"]
        cascade = Cascade.load(capped)
        for given in (tmp_path / "in" / "large.png", Image.fromarray(large)):
            with pytest.raises(DataError, match=told):
                cascade(given)
        assert len(cascade(large)) > 0  # an array is there already

    def test_evaluate_lists_it(self, capped: Path, tmp_path: Path) -> None:
        images = []
        for number, (name, pad) in enumerate({"fits.png": 0, "large.png": 1}.items()):
            write_image(tmp_path / "in" / name, np.pad(FACES, ((0, pad), (0, 0), (0, 0))))
            images.append({"id": number, "file_name": name, "width": 128, "height": 96 + pad})
        truth = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "face"}]}
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        arguments = ["evaluate", str(capped), "--images", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
        assert main([*arguments, "--annotations", str(tmp_path / "truth.json")]) == 1
        assert "is above the cap of 12,288 pixels" in failures(tmp_path / "out")["large.png"]


@pytest.fixture(scope="module")
def cascade() -> Cascade:
    return Cascade.load("mtcnn_face", device="cpu")


class TestNoPictures:
    @pytest.mark.parametrize(
        ("argument", "told"),
        [
            ("", "Missing argument 'PATH"),
            ("TMP/none.jpg", "TMP/none.jpg: no such file or folder; name pictures, or folders of pictures"),
            ("TMP/empty", "TMP/empty: a folder without pictures (.bmp, .gif, .jpeg, .jpg"),
            ("TMP/texts", "TMP/texts: a folder without pictures"),
            ("TMP/a.bgr", "a .bgr file holds bare pixels, without their order of colours; save it as a picture (.bmp"),
            ("TMP/a.NPY", "a .NPY file holds bare pixels"),
        ],
    )
    def test_on_the_command_line(
        self, tmp_path: Path, argument: str, told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in ("empty", "texts"):
            (tmp_path / name).mkdir()
        (tmp_path / "texts" / "a.txt").write_text("")
        for name in ("a.bgr", "a.NPY"):
            (tmp_path / name).write_bytes(FACES.tobytes())
        assert main(["detect", "mtcnn_face", *argument.replace("TMP", str(tmp_path)).split()]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert told.replace("TMP", str(tmp_path)) in err
        assert "Traceback" not in err

    @pytest.mark.parametrize(
        ("value", "got"),
        [
            ([], r"<class 'list'>"),
            (None, r"<class 'NoneType'>"),
            (b"\xff\xd8\xff", r"<class 'bytes'>"),
            (FACES.astype(np.float32) / 255, r"an array of shape \(96, 128, 3\) and dtype float32"),
            (FACES.astype(np.int64), r"dtype int64"),
            (FACES[:, :, 0], r"shape \(96, 128\) and dtype uint8"),
            (FACES.transpose(2, 0, 1), r"shape \(3, 96, 128\)"),
            (FACES[None], r"shape \(1, 96, 128, 3\)"),
            (np.dstack([FACES, FACES[:, :, 0]]), r"shape \(96, 128, 4\)"),
            (FACES[:0], r"shape \(0, 128, 3\)"),
        ],
    )
    def test_in_python(self, cascade: Cascade, value: Any, got: str) -> None:
        with pytest.raises(
            ValueError, match=rf"^a picture is an \(H, W, 3\) uint8 RGB array, a path or .*; got .*{got}"
        ):
            cascade(value)

    @pytest.mark.parametrize(
        ("name", "content", "told"),
        [
            ("none.jpg", None, r"none\.jpg: cannot be read \(No such file or directory\); check the path"),
            ("a.bgr", FACES.tobytes(), r"a\.bgr: not a readable picture \(it begins with .*; JPEG, PNG, WebP and"),
        ],
    )
    def test_a_path_in_python(
        self, cascade: Cascade, tmp_path: Path, name: str, content: bytes | None, told: str
    ) -> None:
        if content is not None:
            (tmp_path / name).write_bytes(content)
        for given in (tmp_path / name, str(tmp_path / name)):
            with pytest.raises(DataError, match=told):
                cascade(given)

    def test_a_batch_is_a_list(self, cascade: Cascade) -> None:
        assert cascade.batch([]) == []  # no pictures, no results
        for one in ("a.jpg", Path("a.jpg")):
            with pytest.raises(ValueError, match=r"images='a\.jpg' is one path, and a list of pictures is taken"):
                cascade.batch(one)  # type: ignore[arg-type]

    def test_any_memory_layout_is_the_same_picture(self, cascade: Cascade) -> None:
        bgr = np.ascontiguousarray(FACES[:, :, ::-1])
        wide = np.pad(FACES, ((3, 2), (5, 7), (0, 0)))
        layouts = [bgr[:, :, ::-1], np.asfortranarray(FACES), wide[3:-2, 5:-7], FACES[::-1][::-1]]
        plain = cascade(FACES, score=0.3)
        assert len(plain) > 0
        for found in cascade.batch(layouts, score=0.3):
            np.testing.assert_allclose(found.boxes, plain.boxes, atol=1e-3)
