"""Files of volumes read to their last byte: ITK goes on with what it could unpack. Only volume.py needs this."""
import math
import os
import re
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from isal import igzip, isal_zlib
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from shared_data.errors import InputError
from shared_data.named_types import Array

DAMAGE: tuple[type[Exception], ...] = (
    OSError, EOFError, ValueError, OverflowError, HeaderDataError, WrapStructError,
    isal_zlib.error)  # type: ignore[assignment]  # which isal's types take for an instance
KEPT_BYTES = 1 << 30  # larger volumes are unpacked a second time, by ITK
HEADER_BYTES = 1 << 20  # longer headers are refused
ORDERS = ("endian", "binarydatabyteordermsb", "elementbyteordermsb")  # fields that say in which order bytes stand
PARTIAL = {"byte skip", "byteskip", "line skip", "lineskip", "headersize", "elementtointensityfunctionslope",
           "elementtointensityfunctionoffset"}  # fields with which voxels are not all of the data, or not as it stands
METAIMAGE_BYTES = {"SHORT": 2, "INT": 4, "FLOAT": 4, "DOUBLE": 8}


def read_planes(path: Path) -> Iterator[Array]:
    """The slices (y, x) of a NIfTI file in stored order, one at a time, scaled as its header says, time points joined.

    Raises InputError for impossible geometry and values that are not finite, one of DAMAGE for a damaged file; a file
    is known to be whole only after its last slice.
    """
    with (igzip.open if path.name.lower().endswith(".gz") else open)(path, "rb") as stream:
        header = _read_header(stream)
        _check_geometry(header, path)
        shape, kind = (*header.get_data_shape(), 1, 1), header.get_data_dtype()
        if min(shape) < 1:
            raise ValueError(f"its size is {shape}")
        width, height = shape[:2]
        slope, inter = header.get_slope_inter()
        stream.seek(max(int(header["vox_offset"]), header["sizeof_hdr"] + 4))
        for _ in range(math.prod(shape[2:])):
            block = stream.read(width * height * kind.itemsize)
            if len(block) < width * height * kind.itemsize:
                raise EOFError("the last slices are missing")
            plane = np.frombuffer(block, kind).reshape(height, width)
            if kind.kind == "f" and not np.isfinite(plane).all():
                raise InputError(f"{path}: holds values that are not numbers (NaN or infinite). "  # ITK would put 0
                                 "Replace them, by air say.")
            yield plane if slope in (None, 1) and not inter else plane * np.float64(slope) + inter
        while stream.read(1 << 22):  # the checksum stands at the end
            pass


def kept(blocks: Iterable[Any]) -> list[Any]:
    """Takes all slices or bytes; returns them, or nothing when they are too large to be held beside the image, or of
    float64, which scaled slices are, while ITK has another type for them."""
    held: list[Any] = []
    size = 0
    for block in blocks:
        size += memoryview(block).nbytes
        if size > KEPT_BYTES or memoryview(block).format == "d":
            held.clear()
        else:
            held.append(block)
    return held


def _read_header(stream):
    first = stream.read(4)
    stream.seek(0)
    two = 540 in (int.from_bytes(first, "little"), int.from_bytes(first, "big"))
    return (nibabel.Nifti2Header if two else nibabel.Nifti1Header).from_fileobj(stream, check=False)


def _check_geometry(header, path):
    zooms = header.get_zooms()[:3]
    if not all(zoom > 0 and math.isfinite(zoom) for zoom in zooms):  # ITK would put 1 mm
        raise InputError(f"{path}: voxel spacing {tuple(map(float, zooms))} mm is impossible. Correct the header.")
    affine = [f"{name}_{axis}" for name, axes in {"srow": "xyz", "qoffset": "xyz", "quatern": "bcd"}.items()
              for axis in axes]
    if not all(np.isfinite(header[place]).all() for place in affine):
        raise InputError(f"{path}: its affine holds values that are not numbers. Correct the header.")


def _check_places(path):
    """Raise InputError when a NRRD or MetaImage header names data outside its own folder: any file would be read."""
    with open(path, "rb") as stream:
        head = stream.read(HEADER_BYTES).decode("latin-1")
    named = list(re.finditer(r"(?im)^[ \t]*(?:data ?file|ElementDataFile)[ \t]*[:=]+[ \t]*(.*)$", head))
    places = [match[1].strip() for match in named]
    if any(place.upper().startswith("LIST") for place in places):
        places += head[named[0].end():].splitlines()
    ended = places if path.suffix.lower() in (".mha", ".mhd") else re.search(r"\n\r?\n", head)
    if len(head) == HEADER_BYTES and not ended:
        raise ValueError("its header has no end")
    folder = os.path.abspath(path.parent)
    for place in places:
        if os.path.commonpath([folder, os.path.abspath(os.path.join(folder, place))]) != folder:
            raise InputError(f"{path}: its data file {place!r} lies outside its folder. Put the two side by side.")


def read_data(path: Path) -> bytes | None:
    """The voxels of a compressed NRRD or MetaImage file, unpacked to its checksum; nothing where ITK has to read them:
    plain or large data, another byte order, or only a part of the file. Of a plain MetaImage see that all is there: ITK
    would write lines of its own to standard error. Raises one of DAMAGE when something is missing, InputError when the
    data lies outside the header's folder.
    """
    _check_places(path)
    lines: list[str] = []
    with open(path, "rb") as stream:
        while (line := stream.readline(1 << 16)).strip() and len(lines) < 1000:
            lines.append(os.fsdecode(line))
            if line.startswith(b"ElementDataFile"):  # the last line of a MetaImage header; an empty one ends NRRD's
                break
        data, offset = path, stream.tell()
    fields = {name.strip().lower(): value.strip() for name, _, value in
              (re.split("([=:])", line, maxsplit=1) for line in lines if re.search("[=:]", line))}
    zipped = fields.get("encoding", "").lower() in ("gz", "gzip") or fields.get("compresseddata", "").lower() == "true"
    place = fields.get("data file", fields.get("datafile", fields.get("elementdatafile", "LOCAL")))
    if place != "LOCAL":
        data, offset = path.parent / place, 0
    if not zipped:
        if "dimsize" in fields and place != "LIST" and "%" not in place:
            bytes_each = METAIMAGE_BYTES.get(fields.get("elementtype", "").removeprefix("MET_").removeprefix("U"), 1)
            if data.stat().st_size - offset < bytes_each * math.prod(map(int, fields["dimsize"].split())):
                raise EOFError(f"{data.name} ends early")
        return None
    unpack = isal_zlib.decompressobj(wbits=47)  # zlib or gzip
    with open(data, "rb") as stream:
        stream.seek(offset)
        blocks = kept(unpack.decompress(block) for block in iter(partial(stream.read, 1 << 22), b""))
    if not unpack.eof:
        raise EOFError("the compressed data ends early")
    order = [fields.get(name, "little").lower() for name in ORDERS]
    return None if PARTIAL & fields.keys() or not {*order} <= {"little", "false"} else b"".join(blocks)
