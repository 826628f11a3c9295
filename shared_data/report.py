"""report.html: one page with tables (sortable), pictures and notes; opens from disk, without network."""
import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import jinja2

from shared_data.files import whole_file
from shared_data.named_types import Row, StrPath

PAGE = jinja2.Environment(autoescape=True).from_string("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ title }}</title><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 0 auto; padding: 1rem; color: #222 }
h1, h2 { line-height: 1.2 } figure { margin: 1rem 0 } img { max-width: 100%; height: auto }
figcaption { color: #555 } .wide { overflow-x: auto }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .45rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap }
th { cursor: pointer; position: sticky; top: 0; background: #f4f4f4 }
th:first-child, td:first-child { text-align: left }
</style></head><body><h1>{{ title }}</h1>
{% for note in notes %}<p>{{ note }}</p>{% endfor %}
{% for table in tables %}<h2>{{ table.title }}</h2><div class="wide"><table><thead><tr>
{% for name in table.rows[0] %}<th title="sort">{{ name }}</th>{% endfor %}</tr></thead><tbody>
{% for row in table.rows %}<tr>{% for cell in row.values() %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div>{% endfor %}
{% for picture in pictures %}<figure><img alt="{{ picture.caption }}" src="data:image/png;base64,{{ picture.data }}">
<figcaption>{{ picture.caption }}</figcaption></figure>{% endfor %}
<script>
for (const head of document.querySelectorAll("th")) head.onclick = () => {
  const body = head.closest("table").tBodies[0], column = head.cellIndex;
  const up = head.dataset.up = head.dataset.up === "1" ? "0" : "1";
  const key = row => row.cells[column].textContent.trim().replace("∞", "Infinity");
  body.append(...[...body.rows].sort((a, b) => (up === "1" ? 1 : -1) *
    (key(a) - key(b) || key(a).localeCompare(key(b), undefined, {numeric: true}))));
};
</script></body></html>
""")


def write_report(path: StrPath, title: str, notes: Iterable[str] = (),
                 tables: Mapping[str, Sequence[Row]] | None = None,
                 pictures: Mapping[str, StrPath] | None = None) -> None:
    """tables: {title: rows as dicts}, empty ones left out; pictures: {caption: PNG path}."""
    page = PAGE.render(
        title=title, notes=notes,
        tables=[{"title": name, "rows": [{key: _shown(value) for key, value in row.items()} for row in rows]}
                for name, rows in (tables or {}).items() if rows],
        pictures=[{"caption": caption, "data": base64.b64encode(Path(picture).read_bytes()).decode()}
                  for caption, picture in (pictures or {}).items()])
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8")


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
