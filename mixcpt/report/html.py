"""Rendering of templates with the formatting functions of `words`, and writing of pages."""

import tempfile
from pathlib import Path
from typing import Any

import jinja2

from mixcpt.errors import ArtifactError
from mixcpt.report import words
from mixcpt.report.figures import palette
from mixcpt.stages.registry import title_of

_FILTERS = ("chance", "change", "count", "duration", "interval", "level", "listing", "magnitude", "percent", "score",
            "shortened")  # fmt: skip


def template_environment(**options: Any) -> jinja2.Environment:
    """Return an environment with the templates of this package that rejects undefined names; `options` are jinja's."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    environment.filters |= {name: getattr(words, name) for name in _FILTERS}
    environment.filters |= {"filesize": words.size, "words": words.title, "stage_title": title_of}
    environment.globals["value"] = words.value
    return environment


def render_page(template: str, **values: Any) -> str:
    """Return a page as HTML; all text is escaped and has no control characters."""
    environment = template_environment(
        autoescape=True, finalize=lambda value: words.printable(value) if type(value) is str else value
    )
    forms = {form: palette.variables(form) for form in ("light", "dark")}
    return environment.get_template(template).render(delta=words.change, span=words.interval, **forms, **values)


def write_page(page: str, output: Path) -> Path:
    """Write a page to `output` atomically and return `output`.

    Raises:
        ArtifactError: If the page cannot be written.
    """
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=output.parent, prefix=".report-") as folder:
            draft = Path(folder) / "page.html"
            draft.write_bytes(page.encode("utf-8", "replace"))
            draft.replace(output)
    except OSError as error:
        problem = f"cannot write the report to {output}: {error.strerror or error}"
        raise ArtifactError(problem, "give the path of another file") from error
    return output
