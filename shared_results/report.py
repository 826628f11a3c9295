"""report.html: one page with tables (sortable), pictures and notes; opens from disk, without network."""
import base64
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from shared_data.named_types import Row, StrPath
from shared_results.pages import write_page

NAMES_A_CASE = ("case", "seriesuid")  # columns whose cells open the viewer of the case


def write_report(path: StrPath, title: str, notes: Iterable[str] = (),
                 tables: Mapping[str, Sequence[Row]] | None = None, pictures: Mapping[str, StrPath] | None = None,
                 viewers: Mapping[str, Path] | None = None) -> None:
    """tables: {title: rows as dicts}, empty ones left out; pictures: {caption: PNG path}; viewers: {case: its page},
    to which the tables refer."""
    write_page(
        path, "report.html", title=title, notes=notes, names_a_case=NAMES_A_CASE,
        viewers={case: quote(os.fsencode(Path(os.path.relpath(page, Path(path).parent)).as_posix()))
                 for case, page in (viewers or {}).items()},
        tables=[{"title": name, "rows": [{key: _shown(value) for key, value in row.items()} for row in rows]}
                for name, rows in (tables or {}).items() if rows],
        pictures=[{"caption": caption, "data": base64.b64encode(Path(picture).read_bytes()).decode()}
                  for caption, picture in (pictures or {}).items()])


def _shown(value):
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, float):
        return value
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{round(value, 4) + 0:.4f}" if abs(value) < 10 else f"{value:.1f}"
