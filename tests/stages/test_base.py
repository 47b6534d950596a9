"""A stage without weights needs to say no more than its answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cascade_det.core.imaging import Resampler
from cascade_det.core.types import Detections
from cascade_det.stages.base import StageSettings, WeightlessStage
from cascade_det.testing import check_stage


class Whole(WeightlessStage):
    """The largest window of the picture's upper left corner."""

    def __call__(
        self, images: Sequence[Resampler], candidates: Sequence[Detections] | None, settings: StageSettings
    ) -> list[Detections]:
        sides = [min(image.image_hw) for image in images]
        return [Detections(np.array([[0, 0, side, side]]), np.ones(1)) for side in sides]


def test_its_answer_is_all_that_a_stage_adds() -> None:
    stage = Whole("whole", (12, 12))
    check_stage(stage, first=True)
    assert (stage.name, stage.window_hw, stage.trainable, stage.num_points) == ("whole", (12, 12), False, None)
    assert stage.arrays() == {}
