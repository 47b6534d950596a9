"""What is wrong with the input is told in one paragraph, with exit code 2 and without a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cascade_det.cli.app import main


class TestErrors:
    @pytest.fixture
    def places(self, tiny: Any, photos: Path, tmp_path: Path) -> dict[str, str]:
        """Return what the arguments of the table name."""
        for name in ("empty", "foreign"):
            (tmp_path / name).mkdir()
        (tmp_path / "foreign" / "thesis.tex").write_text("")
        (tmp_path / "text.safetensors").write_text("no model")
        text = tiny.recipe.read_text()
        broken = {
            "unknown_key": text.replace("pyramid:", "piramid:"),
            "no_data": text.split("data:")[0]
            + "data: {train: {a: {kind: coco, params: {images: none, annotations: none.json}}}, "
            + "val: {b: {kind: synthetic}}}\n",
            "overlap": text.replace("seed: 2", "seed: 1"),
            "no_yaml": "a: [1\n",
            "empty_recipe": "",
        }
        for name, content in broken.items():
            (tmp_path / f"{name}.yaml").write_text(content)
        return {
            "RECIPE": str(tiny.recipe),
            "RUN": str(tiny.folder),
            "MODEL": str(tiny.model),
            "PICTURE": str(photos / "pictures" / "00.png"),
            "PICTURES": str(photos / "pictures"),
            "TRUTH": str(photos / "truth.json"),
            "TMP": str(tmp_path),
        }

    @pytest.mark.parametrize(
        ("arguments", "told"),
        [
            ("--nosuch", "No such option: --nosuch"),
            ("trian RECIPE", "No such command 'trian'. Did you mean 'train'?"),
            ("train", "Missing argument"),
            ("train no_such_recipe", "recipe 'no_such_recipe' is neither a file nor a shipped recipe; Choices: "),
            ("train quikstart", "did you mean 'quickstart'?"),
            ("train TMP/unknown_key.yaml", "piramid"),
            ("train TMP/no_yaml.yaml", "no_yaml.yaml: not a readable YAML file"),
            ("train TMP/empty_recipe.yaml", "stages: a cascade needs at least one stage"),
            ("train RECIPE stages.pnet.trian.lr=1", "stages.pnet.trian"),
            ("train RECIPE stages.qnet.train.lr=1", "there is no stage 'qnet'; did you mean "),
            ("train RECIPE stages.pnet.net.params.alhpa=1", "stages.pnet.net.params.alhpa=1"),
            ("train RECIPE pyramid.factor=2", "pyramid.factor=2.0: must lie in (0, 1)"),
            ("train RECIPE seed", "override 'seed' is not of the form KEY=VALUE"),
            ("train RECIPE --step mien", "--step 'mien'"),
            ("train RECIPE --stage qnet", "there is no stage 'qnet'"),
            ("train RECIPE --from qnet", "there is no stage 'qnet'"),
            ("train RECIPE --preset exact", "preset 'exact'"),
            ("train RECIPE name=other", "holds the run of another recipe"),
            ("train RECIPE data.views.x.transform.kind=Rotat", "data.views.x.transform.kind='Rotat'"),
            ("train TMP/no_data.yaml run_dir=TMP/new", "none.json"),
            ("train TMP/overlap.yaml run_dir=TMP/new", "data.train and data.val share 16 picture(s)"),
            ("check TMP/no_data.yaml", "none.json"),
            ("status TMP/empty", "holds no recipe.yaml"),
            ("status TMP/nothing", "neither a file nor a shipped recipe"),
            ("detect MODEL", "Missing argument 'PATH"),
            ("detect MODEL PICTURE --scoer 0.5", "No such option: --scoer"),
            ("detect MODEL PICTURE --score high", "Invalid value for '--score'"),
            ("detect MODEL PICTURE --score 1.5", "score=1.5 must lie in [0, 1]"),
            ("detect MODEL PICTURE --min-object 0", "min_object_px=0.0 must be at least 1 pixel"),
            ("detect MODEL PICTURE --preset exact", "preset 'exact'"),
            ("detect MODEL PICTURE --device abacus", "device='abacus' cannot be used"),
            ("detect no_such_model PICTURE", "model 'no_such_model' is neither a file"),
            ("detect TMP/empty PICTURE", "a folder without model.safetensors"),
            ("detect TMP/text.safetensors PICTURE", "text.safetensors: not a model file"),
            ("detect MODEL TMP/empty", "empty: a folder without pictures"),
            ("detect MODEL TMP/nothing.jpg", "nothing.jpg: no such file or folder"),
            ("detect MODEL PICTURE --draw", "--draw and --save-as write files and need --out DIR"),
            ("detect MODEL PICTURE --save-as csv", "--draw and --save-as write files and need --out DIR"),
            ("detect MODEL PICTURE --save-as xlsx --out TMP/new", "--save-as 'xlsx'"),
            (
                "detect MODEL PICTURE --out TMP/foreign",
                "holds other things than this verb's output, such as 'thesis.tex'",
            ),
            ("detect MODEL PICTURE --out PICTURE", "00.png: is a file; name a folder"),
            ("evaluate MODEL --images PICTURES", "Missing option '--annotations'"),
            ("evaluate MODEL --images PICTURES --annotations TMP/none.json", "none.json"),
            ("evaluate MODEL --images TMP/none --annotations TRUTH", "--images TMP/none: no such folder"),
            (
                "evaluate MODEL --images PICTURES --annotations TRUTH --format cocoa",
                "--format 'cocoa': did you mean 'coco'?",
            ),
            (
                "evaluate MODEL --images PICTURES --annotations TRUTH --metrics aps",
                "there is no evaluator of this name",
            ),
            ("evaluate MODEL --images PICTURES --annotations TRUTH --group-by colour", "group_by='colour'"),
            ("evaluate MODEL --images PICTURES --annotations TRUTH --upto rmet", "did you mean 'rnet'?"),
            ("evaluate MODEL --images PICTURES --annotations TRUTH --score -1", "score=-1.0 must lie in [0, 1]"),
            ("evaluate MODEL --images PICTURES --annotations TRUTH --min-object -1", "min_object_px=-1.0"),
            (
                "evaluate MODEL --images PICTURES --annotations TRUTH --out RUN",
                "holds other things than this verb's output",
            ),
            ("parts iou_band", "did you mean 'iou_bands'?"),
        ],
    )
    def test_one_paragraph_and_exit_code_2(
        self, places: dict[str, str], arguments: str, told: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for name in sorted(places, key=len, reverse=True):
            arguments, told = arguments.replace(name, places[name]), told.replace(name, places[name])
        assert main(arguments.split()) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "Traceback" not in err
        lines = err.strip().splitlines()
        assert lines[-1].startswith("error: ")
        assert told in lines[-1]
        assert sum(line.startswith("error: ") for line in lines) == 1
        assert not (Path(places["TMP"]) / "new" / "recipe.yaml").exists()

    def test_a_file_that_cannot_be_written(self, tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "file").write_text("")
        assert main(["status", str(tiny.recipe), "--json", str(tmp_path / "file" / "s.json")]) == 2
        assert str(tmp_path / "file") in capsys.readouterr().err

    def test_debug_shows_where(self, capsys: pytest.CaptureFixture[str]) -> None:
        for arguments in (["--debug", "detect", "no_model", "x"], ["check", "no_recipe", "--debug"]):
            assert main(arguments) == 2
            told = capsys.readouterr().err
            assert told.startswith("Traceback")
            assert told.splitlines()[-1].startswith("error: ")
