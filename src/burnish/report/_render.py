"""A template and its context made into one self-contained page, and the page into a file.

Jinja2 escapes every text that comes from a record; only figures, the library that draws them and
our own style sheet and script go in as they are. A page loads nothing from anywhere: plotly.js is
inside it (which is why it weighs five megabytes), so it can be mailed, archived and opened on a
machine without a network. A page without a figure goes without the library.

Package data: the templates (`*.html.j2`), page.css, page.js.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.errors import InvalidInput
from burnish.files import write_text
from burnish.report._drawing import plotly_js

if TYPE_CHECKING:
    import jinja2


def render(template: str, figures: dict[str, str | None], context: dict[str, Any]) -> str:
    """The page of a template; `figures` are HTML, by the name the template knows them by."""
    library = plotly_js() if any(figures.values()) else ""
    values = {**context, "figures": figures, "plotly_js": library}
    return str(_environment().get_template(template).render(values))


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def put(page: str, folder: Path, name: str, out: Path | None) -> Path:
    """Write a page to `out`, a file or a folder, or into `folder`; its path.

    Raises:
        InvalidInput: there is no such folder to write into.
    """
    path = folder / name if out is None else Path(out)
    if path.is_dir():
        path = path / name
    if not path.parent.is_dir():
        raise InvalidInput(f"cannot write {path}: there is no folder {path.parent}")
    write_text(path, page)
    return path
