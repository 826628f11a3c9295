"""A method as those of the projects, but quick: voxels above a number of HU are node."""
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from shared_data.errors import run_script
from shared_data.files import read_json
from shared_data.settings import parse_options
from shared_results.outputs import Prediction, ResultOptions
from shared_results.predicting import Method, predict

LOADED: list[Path] = []  # the networks that were loaded in this process


@dataclass(frozen=True, kw_only=True)
class Options(ResultOptions):
    checkpoint: tuple[Path, ...]  # JSON: {"above": HU}
    delay: float = 0.0  # s


def load(options):
    LOADED.append(options.checkpoint[0])
    return read_json(options.checkpoint[0])["above"]


def segment(above, ct, options, watch):
    for _ in watch.network([0]):
        time.sleep(options.delay)
    array = sitk.GetArrayFromImage(ct)
    if array.max() == 1234:
        raise ZeroDivisionError("a case that the network does not stand")
    mask = ct >= above
    return Prediction(labels=mask, names={1: "node"}, facts={"checkpoint": options.checkpoint[0]}, found="something",
                      picture=np.zeros((30, 40, 3), np.uint8), row={"voxels": int((array >= above).sum())})


METHOD = Method("Threshold", load, segment)


def main(argv=None):
    return predict(parse_options(Options, argv), METHOD)


if __name__ == "__main__":
    from tests import threshold  # under the name by which other processes find it
    run_script(threshold.main)
