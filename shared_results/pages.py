"""HTML pages rendered from templates/; they open from disk and need no network."""
from pathlib import Path

import jinja2

from shared_data.files import whole_file
from shared_data.named_types import StrPath

TEMPLATES = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)


def write_page(path: StrPath, template: str, **values: object) -> None:
    """Render a template with `values`, escaped, to a file that appears complete or not at all."""
    page = TEMPLATES.get_template(template).render(values)
    with whole_file(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
