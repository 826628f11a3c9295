"""Pages that open from disk, without network: rendered from templates/."""
from pathlib import Path

import jinja2

from shared_data.files import whole_file
from shared_data.named_types import StrPath

TEMPLATES = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)


def write_page(path: StrPath, template: str, **values: object) -> None:
    """Write the template filled with `values`, text escaped, whole or not at all."""
    page = TEMPLATES.get_template(template).render(values)
    with whole_file(path) as partial:
        partial.write_text(page, encoding="utf-8")
