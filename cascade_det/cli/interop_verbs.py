"""The verb that brings in what other packages made: import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from cascade_det.cli.common import write_json
from cascade_det.cli.run_verbs import JsonFile
from cascade_det.errors import ModelError


def import_weights(
    format_name: Annotated[
        str, typer.Argument(metavar="facenet-pytorch|mtcnn|npy", help="The package or layout that the weights are in.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The model file to write (.safetensors).")],
    path: Annotated[
        Optional[Path],
        typer.Argument(metavar="PATH", help="The folder of the three files, or one of them.", show_default=False),
    ] = None,
    json_file: JsonFile = None,
) -> None:
    """Make a model of published MTCNN weights: faces with five points.

    PATH is the folder of the three files (or of the unpacked wheel); without it the installed package is looked for,
    and not imported. `facenet-pytorch` has pnet.pt, rnet.pt and onet.pt; `mtcnn` has pnet.lz4, rnet.lz4 and onet.lz4
    and needs `pip install 'cascade_det[pretrained]'`; `npy` is det1.npy, det2.npy and det3.npy of
    davidsandberg/facenet. Only arrays are read: what else a file holds is refused and never run. The weights are their
    authors' work: see the terms of the package that they come from.

    Examples:

    `cascade-det import facenet-pytorch --out mtcnn_paper.safetensors`

    `cascade-det import mtcnn unpacked/mtcnn/assets/weights --out mtcnn_paper.safetensors`

    `cascade-det import npy facenet/src/align --out mtcnn_paper.safetensors`
    """
    from cascade_det.interop.public_mtcnn import import_mtcnn

    if out.is_dir():
        raise ModelError(f"--out {out}: is a folder; name a file, such as {out / 'mtcnn_paper.safetensors'}.")
    if out.exists() and out.suffix != ".safetensors":
        raise ModelError(f"--out {out}: exists and is no .safetensors file; name another, it would be overwritten.")
    cascade, folder = import_mtcnn(format_name, path)
    cascade.save(out)
    stages = {
        stage.name: {
            "net": cascade.recipe.stages[stage.name].net.kind,
            "parameters": sum(array.size for array in stage.arrays().values()),
            "score": cascade.thresholds[stage.name]["detect"],
        }
        for stage in cascade.stages
    }
    for name, facts in stages.items():
        print(f"{name}: {facts['net']}, {facts['parameters']:,} parameters, score >= {facts['score']}")
    print(f"from:  {folder}")
    print(f"model: {out}")
    print(f"next:  cascade-det detect {out} photo.jpg")
    write_json(json_file, {"model": str(out), "from": str(folder), "stages": stages})
