"""The CTs of a cohort, below a folder or listed in a CSV; each gets a unique name for its results."""
import csv
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from shared_data.dicom import ct_series_of, read_header
from shared_data.errors import InputError, one_line
from shared_data.folds import natural_sort
from shared_data.volume import SUFFIXES, without_suffix

PATH_COLUMNS = ("path", "input", "ct", "file")  # names that the column of paths may have
DERIVED = ("_uncertainty", "_probability")  # endings of the names of images written beside a case's labels
LONGEST = 180  # bytes a name may have


@dataclass(frozen=True)
class Case:
    name: str  # of its results: printable and unique
    input: Path  # its file, or the folder of its slices
    series: str | None = None  # UID, of a DICOM series
    files: tuple[Path, ...] = ()  # its slices
    problem: str = ""  # why it cannot be used, if that is known without reading it


def find_cases(source: Path, output: Path) -> list[Case]:
    """The cases of a folder or a CSV in natural order, without those in the folder `output`.

    Raises InputError when there is none, and when `output` holds CTs of the input.
    """
    found = listed_cases(source) if is_list(source) else cases_below(source, source, output)
    for path in [source] if source.is_dir() else [case.input for case in found]:
        if output.resolve() in (path.resolve(), *path.resolve().parents):
            raise InputError(f"{output}: holds CTs of the input. Name another folder.")
    if not found:
        raise InputError(f"{source}: no CT in it, neither a series of DICOM slices nor a file {' '.join(SUFFIXES)}. "
                         "Name another.")
    by_name = {case.name: case for case in told_apart(found)}
    return [by_name[name] for name in natural_sort(by_name)]


def is_list(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def listed_cases(table: Path) -> list[Case]:
    """Cases of a CSV: one path per line, or a header with one of PATH_COLUMNS and, optionally, `case` (names) and
    `series` (UIDs). Paths are relative to the CSV; a folder stands for all CTs in it."""
    try:
        with open(table, newline="", encoding="utf-8-sig") as stream:
            lines = [line for line in csv.reader(stream) if any(cell.strip() for cell in line)]
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{table}: not a CSV table ({error}).") from error
    header = [cell.strip().lower() for cell in lines[0]] if lines else []
    column = next((name for name in PATH_COLUMNS if name in header), None)
    if column is None:
        header, column = ["path"], "path"
    else:
        lines = lines[1:]
    rows = [{name: cell.strip() for name, cell in zip(header, line)} for line in lines]
    if not all(row.get(column) for row in rows):
        raise InputError(f"{table}: a line without a path. Every line needs the path of a CT.")
    paths = [Path(os.path.abspath(table.parent / row[column])) for row in rows]
    root = Path(os.path.commonpath([path.parent for path in paths])) if paths else table.parent
    cases = {}
    for row, path in zip(rows, paths):
        for case in _listed(path, root, row.get("series")):
            cases[case.input, case.series] = replace(case, name=row.get("case") or case.name)
    return list(cases.values())


def _listed(path, root, series):
    if not path.is_dir():
        return [Case(without_suffix(_joined(path, root)), path)]  # a missing file is reported when it is read
    found = [case for case in cases_below(path, root) if series in (None, "", case.series)]
    return found or [Case(_joined(path, root), path, series, problem=(
        f"{path}: no CT {f'series {series}' if series else ''} in it. Name another."))]


def cases_below(folder: Path, root: Path, output: Path | None = None) -> list[Case]:
    """Cases of the files and DICOM series in a folder at any depth, without `output` and hidden ones, named by their
    paths below `root`. A damaged .dcm makes the series in its folder unusable."""
    files, cases = _walk(folder, root, output)
    series, damaged = defaultdict(list), defaultdict(list)
    for file in tqdm(files, desc="looking for CTs", unit="file", disable=None, leave=False):
        if file.name.lower().endswith(SUFFIXES):
            cases.append(Case(without_suffix(_joined(file, root)), file))
            continue
        try:
            header = read_header(file)
        except InputError as error:
            damaged[file.parent].append(str(error))
            continue
        if header is not None and (uid := next(iter(ct_series_of([(file, header)])), None)) is not None:
            place = getattr(header.get_item("ImagePositionPatient"), "value", None)
            series[uid].append((file, str(place), str(header.get("SeriesNumber", ""))))
    parts = [(uid, part) for uid, slices in series.items() for part in _copies(slices)]
    crowded = Counter(_common_folder(part) for _, part in parts)
    for uid, part in parts:
        place = _common_folder(part)
        name = _joined(place, root) + (f"_series{part[0][2]}" if crowded[place] > 1 else "")
        problem = next((damaged[parent][0] for parent in {file.parent for file, *_ in part} if damaged[parent]), "")
        cases.append(Case(name, place, uid, tuple(file for file, *_ in part), problem))
    used = {file.parent for _, part in parts for file, *_ in part}
    return cases + [Case(_joined(place, root), place, problem=problems[0])
                    for place, problems in damaged.items() if problems and place not in used]


def _walk(folder, root, output):
    """(files, cases for the folders that cannot be listed); links are followed, each folder is visited once."""
    files, unreadable, visited = [], [], {output.resolve()} if output else set()

    def add_unreadable(error):
        place = Path(error.filename)
        unreadable.append(Case(_joined(place, root), place, problem=one_line(error)))

    for place, folders, names in os.walk(folder, onerror=add_unreadable, followlinks=True):
        real = Path(place).resolve()
        if real in visited:
            folders.clear()
            continue
        visited.add(real)
        folders[:] = sorted(name for name in folders if name[0] != ".")
        paths = [Path(place, name) for name in sorted(names) if name[0] != "."]
        files += [path for path in paths if path.is_file() or not path.exists()]  # a dangling link is a bad case
    return files, unreadable


def _copies(slices):
    """[slices] of one UID; split by folder if one folder holds all positions, since then the series was copied."""
    folders, places = defaultdict(list), defaultdict(set)
    for item in slices:
        folders[item[0].parent].append(item)
        places[item[0].parent].add(item[1])
    copied = len(set().union(*places.values())) == max(map(len, places.values()))
    return list(folders.values()) if copied else [slices]


def _common_folder(slices):
    return Path(os.path.commonpath([file.parent for file, *_ in slices]))


def _joined(path, root):
    """A name for a path at or below `root`, from its parts."""
    return "_".join(path.relative_to(root).parts) or root.resolve().name


def told_apart(cases: Sequence[Case]) -> list[Case]:
    """The same cases under valid file names that are unique regardless of case; a name that had to be changed, or was
    not unique, ends with 8 hex digits of a hash of its path."""
    fit = ["".join(char if char.isprintable() and char not in "%/" else "_" for char in case.name).lstrip(".-")
           for case in cases]
    claimed = Counter(name.lower() + ending for name in fit for ending in ("", *DERIVED))
    named = []
    for case, name in zip(cases, fit):
        short = os.fsencode(name)[:LONGEST].decode(errors="ignore")
        if short != case.name or any(claimed[name.lower() + ending] > 1 for ending in ("", *DERIVED)):
            path = os.fsencode(f"{case.input} {case.series or ''}")
            short = f"{short}_{hashlib.sha256(path).hexdigest()[:8]}"
        named.append(replace(case, name=short))
    return named
