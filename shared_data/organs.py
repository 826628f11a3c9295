"""Which organs a project segments (a table that the user writes), and what was found of them."""
import json
import math
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypedDict

import SimpleITK as sitk

from shared_data.errors import InputError
from shared_data.metrics import components
from shared_data.named_types import Floats, Labels, Row, StrPath
from shared_data.votes import disagreement

KEYS = ("organs", "small", "weights")


class LabelTable(TypedDict):
    """What `read_label_table` returns."""

    organs: tuple[str, ...]
    small: tuple[str, ...]
    weights: tuple[float, ...] | None


class Found(TypedDict):
    """The fields of a `Prediction` about organs."""

    found: str
    row: Row


EXAMPLE = '{"organs": {"Mandible": 1, "Lens_L": 2}, "small": ["Lens_L"], "weights": {"Mandible": 1, "Lens_L": 8}}'


def read_label_table(path: Path) -> LabelTable:
    """The label table in a JSON file such as EXAMPLE; "small" and "weights" are optional.

    organs: names of the labels 1, 2, ...; small: names of small organs; weights: one per organ, or None. Raises
    InputError for repeated names or labels, labels that are not 1 to n, and small organs or weights of unknown organs.
    """
    table = _read(path)
    organs = table.get("organs")
    if not (isinstance(organs, dict) and organs and all(type(value) is int for value in organs.values())):
        raise InputError(f"{path}: no organs with whole numbers as labels. Write such as {EXAMPLE}")
    unnamed = [name for name in organs if not name.strip() or not name.isprintable() or name.lower() == "background"]
    if unnamed:
        raise InputError(f"{path}: {unnamed[0]!r} cannot be an organ's name. Background is label 0 and not listed.")
    labels = sorted(organs.values())
    repeated = sorted({label for label in labels if labels.count(label) > 1})
    if repeated:
        raise InputError(f"{path}: label {repeated[0]} stands for "
                         f"{' and '.join(name for name in organs if organs[name] == repeated[0])}. Give each its own.")
    if labels != list(range(1, len(labels) + 1)) or len(labels) > 255:
        raise InputError(f"{path}: labels {', '.join(map(str, labels))}. They must be 1 to the number of organs (at "
                         "most 255), without gaps; 0 is background.")
    small, weights = table.get("small", []), table.get("weights")
    if not (isinstance(small, list) and (weights is None or isinstance(weights, dict))):
        raise InputError(f"{path}: small must be a list of organs, weights a number for each. Write such as {EXAMPLE}")
    unknown = [str(name) for name in [*small, *(weights or {})] if name not in organs]
    if unknown:
        raise InputError(f"{path}: {', '.join(unknown)} not among its organs. Spell names the same everywhere.")
    names = tuple(sorted(organs, key=organs.__getitem__))
    if weights is not None:
        absent = [name for name in names if name not in weights]
        wrong = [name for name, value in weights.items()
                 if type(value) not in (int, float) or not math.isfinite(value) or value < 0]
        if absent or wrong:
            raise InputError(f"{path}: the weight of {(absent or wrong)[0]} is missing, or not a number of at least 0.")
        weights = tuple(float(weights[name]) for name in names)
    return {"organs": names, "small": tuple(name for name in names if name in small), "weights": weights}


def _read(path):
    def refuse_repeated(pairs):
        names = [name for name, _ in pairs]
        repeated = [name for name in names if names.count(name) > 1]
        if repeated:
            raise InputError(f"{path}: {repeated[0]} stands there twice. Keep one.")
        return dict(pairs)

    try:
        table = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=refuse_repeated)
    except FileNotFoundError:
        raise InputError(f"{path}: no such label table.") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid JSON ({error}). Write such as {EXAMPLE}") from error
    if not isinstance(table, dict) or set(table) - set(KEYS):
        raise InputError(f"{path}: a label table has {', '.join(KEYS)} and nothing else. Write such as {EXAMPLE}")
    return table


def check_organs(organs: Sequence[str], small: Collection[str]) -> None:
    """Raise ValueError when an organ is listed twice, or a small organ is not among the organs."""
    repeated = [name for name in organs if organs.count(name) > 1]
    if repeated:
        raise ValueError(f"--organs: {repeated[0]} stands there twice.")
    unknown = [name for name in small if name not in organs]
    if unknown:
        raise ValueError(f"--small {' '.join(unknown)}: not among the organs {' '.join(organs)}.")


def check_same_organs(organs: Sequence[str], prepared: Sequence[str], where: StrPath) -> None:
    """Raise InputError when a network's `organs` differ from those that the cases in `where` were `prepared` with."""
    if organs != prepared:
        raise InputError(f"{where}: made with the organs {', '.join(prepared)}; the network's are {', '.join(organs)}. "
                         "Use a checkpoint and cases of one label table.")


def list_organs(labels_zyx: Labels, spacing_xyz: Sequence[float], organs: Sequence[str],
                entropy: Floats | None = None) -> list[Row]:
    """[{"label", "organ", "volume_ml", "components"}] of the organs with labels 1, 2, ... in a map (z, y, x).

    entropy (z, y, x) of an ensemble's votes: adds what `disagreement` says of each.
    """
    votes = {} if entropy is None else disagreement(entropy, labels_zyx, range(1, len(organs) + 1))
    shape = sitk.LabelShapeStatisticsImageFilter()
    shape.Execute(sitk.GetImageFromArray(labels_zyx))
    rows = []
    for label, name in enumerate(organs, 1):
        voxels, parts = 0, 0
        if shape.HasLabel(label):
            x, y, z, nx, ny, nz = shape.GetBoundingBox(label)
            organ = labels_zyx[z:z + nz, y:y + ny, x:x + nx] == label
            voxels, (_, parts) = int(organ.sum()), components(organ)
        rows.append({"label": label, "organ": name, "volume_ml": voxels * math.prod(spacing_xyz) / 1000,
                     "components": parts, **votes.get(label, {})})
    return rows


def organs_found(organs: Sequence[Row]) -> Found:
    """A summary for the user and a table row of the organs of `list_organs`; for an ensemble the row also names the
    organ on which its members agree least."""
    absent = [row["organ"] for row in organs if not row["components"]]
    n_found, total = len(organs) - len(absent), sum(row["volume_ml"] for row in organs)
    disputed = [row for row in organs if row.get("disagreement") is not None]
    most = max(disputed, key=lambda row: row["disagreement"], default=None)
    check = {"check first": most["organ"], "disagreement": most["disagreement"]} if most else {}
    return {"found": f"{n_found} organs, {total:.1f} ml" + (f"; not found: {', '.join(absent)}" if absent else ""),
            "row": {"volume_ml": total, "organs": n_found, **check,
                    **{f"{row['organ']} ml": row["volume_ml"] for row in organs}}}
