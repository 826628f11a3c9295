"""DICOM SEG out: labels as a segmentation of a CT's original slices, by highdicom."""
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import SimpleITK as sitk
from pydicom.uid import generate_uid

from shared_data.colour_tables import COLOURS
from shared_data.errors import silenced
from shared_data.files import whole_file
from shared_data.instances import PRODUCT, ct_instances, labels_on, product_version
from shared_data.named_types import StrPath
from shared_data.organ_names import SPELLINGS, identity

if TYPE_CHECKING:
    from pydicom.sr.codedict import Concepts
    from pydicom.sr.coding import Code


def write_seg(label_image: sitk.Image, names: Mapping[int, str], ct_files: Iterable[StrPath], path: StrPath,
              algorithm: str = PRODUCT, labelmap: bool = False) -> None:
    """Write the labels {label: name} of an image as a DICOM SEG of the CT series in `ct_files` (in any order).

    labelmap: one plane of labels per slice (DICOM 2024: small, but not every reader knows it) instead of one binary
    plane per label. Segments are numbered 1, 2, ... in the order of `names`. Raises InputError as `ct_instances` does.
    """
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import Segmentation, SegmentationTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes

    slices = ct_instances(ct_files)
    stack = np.stack([labels_on(label_image, header) for header in slices])
    numbers = np.zeros(int(max(stack.max(), *names)) + 1, np.uint8)
    numbers[list(names)] = np.arange(1, len(names) + 1)
    how = AlgorithmIdentificationSequence(algorithm, codes.DCM.ArtificialIntelligence, product_version())
    segments = [SegmentDescription(
        number, name, *_coded(name, codes), "AUTOMATIC", how,
        display_color=CIELabColor.from_rgb(*COLOURS[label % len(COLOURS)].tolist()))
        for number, (label, name) in enumerate(names.items(), 1)]
    with silenced():  # highdicom warns about an empty map, pydicom about tags of the CT
        segmentation = Segmentation(
            slices, numbers[stack], SegmentationTypeValues.LABELMAP if labelmap else SegmentationTypeValues.BINARY,
            segments, generate_uid(), 1, generate_uid(), 1, PRODUCT, algorithm, product_version(), "0",
            content_description="automatic, unapproved", content_label="AUTOMATIC",
            series_description=f"{algorithm}, automatic, unapproved"[:64])
    segmentation.SpecificCharacterSet = "ISO_IR 192"
    with whole_file(path) as temporary:
        segmentation.save_as(temporary)


def _coded(name: str, codes: "Concepts") -> "tuple[Code, Code]":
    """(category, type) of an organ's name, as pydicom's SNOMED codes."""
    what, _ = identity(name)
    category = codes.SCT.MorphologicallyAbnormalStructure if what == "Nodule" else codes.SCT.AnatomicalStructure
    return category, getattr(codes.SCT, what if what in SPELLINGS else "Organ")
