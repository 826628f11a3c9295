"""report.html: one page of sortable tables, pictures and notes, which opens from disk without a network."""
import base64
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from shared_data.named_types import Row, StrPath
from shared_results.pages import write_page

NAMES_A_CASE = ("case", "seriesuid")  # columns whose cells link to the viewer page of the case


def write_report(path: StrPath, title: str, notes: Iterable[str] = (),
                 tables: Mapping[str, Sequence[Row]] | None = None, pictures: Mapping[str, StrPath] | None = None,
                 viewers: Mapping[str, Path] | None = None) -> None:
    """tables: {title: rows}, empty ones are left out; pictures: {caption: path of a PNG}; viewers: {case: its page}, to
    which the tables link."""
    folder = Path(path).parent
    write_page(
        path, "report.html", title=title, notes=notes, names_a_case=NAMES_A_CASE,
        viewers={case: _relative_url(page, folder) for case, page in (viewers or {}).items()},
        tables=[{"title": name, "rows": [_shown_row(row) for row in rows]}
                for name, rows in (tables or {}).items() if rows],
        pictures=[{"caption": caption, "data": base64.b64encode(Path(picture).read_bytes()).decode()}
                  for caption, picture in (pictures or {}).items()])


def _relative_url(page, folder):
    return quote(os.fsencode(Path(os.path.relpath(page, folder)).as_posix()))


def _shown_row(row):
    return {column: _shown(value) for column, value in row.items()}


def _shown(value):
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return value
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{round(value, 4) + 0:.4f}" if abs(value) < 10 else f"{value:.1f}"  # + 0: no "-0.0000"
