"""A page: blocks of text, tables and charts, and how they become one HTML file that loads nothing.

Everything passes through Jinja2 with autoescape; data for charts is JSON in which `<`, `>` and `&` are
escaped, so that no name in a store can end a script or start a tag. The page's content security policy
allows no connection at all, and Vega evaluates its expressions without `eval`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from bnsweep._version import __version__
from bnsweep.analysis.figures import Figure
from bnsweep.analysis.theme import DARK, LIGHT, chart_config
from bnsweep.analysis.wording import close, number

__all__ = [
    "Block",
    "Cell",
    "Code",
    "Column",
    "Drawing",
    "Page",
    "Section",
    "Table",
    "Text",
    "Words",
    "chart_specs",
    "charts_text",
    "looks",
    "render",
    "render_sections",
    "rows_table",
    "script_bundle",
]


@dataclass(frozen=True)
class Cell:
    """One value of a table, as text; `spread` is the half-width of its 95 % interval."""

    text: str = ""
    spread: str = ""
    hollow: bool = False  # a figure that should have an interval and has none
    href: str = ""  # id of an element of this page
    verdict: str = ""


@dataclass(frozen=True)
class Column:
    """A column's heading and how it is set."""

    title: str
    number: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Text:
    """A paragraph; a note is set smaller."""

    text: str
    note: bool = False
    kind: str = "text"


@dataclass(frozen=True)
class Code:
    """A command or a file, word for word; folded: under its title, which opens it."""

    title: str
    text: str
    folded: bool = False
    kind: str = "code"


@dataclass(frozen=True)
class Words:
    """Definitions."""

    rows: Sequence[tuple[str, str]]
    kind: str = "words"


@dataclass(frozen=True)
class Table:
    """A table with the SQL behind it."""

    anchor: str
    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    note: str = ""
    query: str = ""
    sql: str = ""
    kind: str = "table"


@dataclass(frozen=True)
class Drawing:
    """A chart with its numbers as a table and the SQL behind it."""

    figure: Figure
    table: Table
    sql: str = ""
    kind: str = "figure"

    @property
    def name(self) -> str:
        """Name of the figure, which is also its key among the page's specifications."""
        return self.figure.name

    @property
    def anchor(self) -> str:
        """Id of the figure on the page."""
        return f"figure-{self.figure.name}"

    @property
    def title(self) -> str:
        """Heading."""
        return self.figure.title

    @property
    def caption(self) -> str:
        """What a reader must know: n and the interval."""
        return self.figure.caption

    @property
    def query(self) -> str:
        """Name of the query behind it."""
        return self.figure.query


Block = Text | Code | Words | Table | Drawing


@dataclass(frozen=True)
class Section:
    """A part of the page with a heading."""

    anchor: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A whole report."""

    title: str
    sweep: str
    headline: Sequence[str]
    sections: Sequence[Section]
    facts: Sequence[tuple[str, str]] = field(default=())


def render(page: Page) -> str:
    """The page as one HTML document, charts and their libraries included."""
    specs = chart_specs(page.sections)
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=page.title,
            sweep=page.sweep,
            headline=page.headline,
            facts=page.facts,
            sections=page.sections,
            specs=specs,
            looks=looks(),
            bundle=script_bundle() if specs else "",
            script=_template("report.js"),
            css=_template("report.css"),
            version=__version__,
        )
    )


def render_sections(sections: Sequence[Section]) -> str:
    """Sections as a piece of HTML, for a page that brings its own frame, charts and look."""
    return _environment().get_template("sections.html").render(sections=sections)


def chart_specs(sections: Sequence[Section]) -> dict[str, Any]:
    """The Vega-Lite specifications of the charts, by the names that the HTML knows them by."""
    drawings = [block for section in sections for block in section.blocks if isinstance(block, Drawing)]
    return {drawing.name: drawing.figure.specification() for drawing in drawings}


def charts_text(specs: Mapping[str, Any]) -> str:
    """Charts and looks as templates/report.js reads them: JSON that cannot end the script element it stands in."""
    text = json.dumps({"specs": specs, "looks": looks()}, separators=(",", ":"), allow_nan=False)
    return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")


def looks() -> dict[str, Any]:
    """How charts look on bright and on dark pages."""
    return {"light": chart_config(LIGHT), "dark": chart_config(DARK)}


def _environment() -> Environment:
    environment = Environment(loader=FunctionLoader(_template), autoescape=True, undefined=StrictUndefined)
    environment.filters["close"] = close
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "separators": (",", ":"), "allow_nan": False}
    return environment


def rows_table(
    anchor: str, title: str, *, rows: Sequence[Mapping[str, Any]], columns: Sequence[tuple[str, str]]
) -> Table:
    """The rows under a chart as a table."""
    numbers = {name for row in rows for name, value in row.items() if isinstance(value, (int, float))}
    heads = [Column(heading, number=name in numbers) for name, heading in columns]
    cells = [[Cell(_shown(row.get(name))) for name, _ in columns] for row in rows]
    return Table(anchor, title, heads, cells)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else number(value, digits=2)


def _template(name: str) -> str:
    return (files("bnsweep.analysis") / "templates" / name).read_text(encoding="utf-8")


@cache
def script_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as vl-convert carries them; in a function, so that its names stay its own."""
    import vl_convert

    code: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its stub forgets the default
    # A script's text must not contain its own end tag, whatever a later version of the libraries brings.
    return "(() => {" + code.replace("</script", "<\\/script").replace("<!--", "<\\!--") + "})();"
