"""The report of a sweep as one HTML file, and its figures as PDF, SVG and PNG; neither touches the network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bnsweep.analysis.contents import all_figures, build_page
from bnsweep.analysis.figures import Figure
from bnsweep.analysis.inputs import read_inputs
from bnsweep.analysis.page import render
from bnsweep.analysis.theme import LIGHT, PRINT_FONT, chart_config
from bnsweep.errors import InputError
from bnsweep.paths import whole

if TYPE_CHECKING:
    from bnsweep.analysis.database import Database

__all__ = ["report_html", "write_figures", "write_report"]

PNG_SCALE = 2.0  # two pixels per unit: sharp on a dense screen and in a column of a paper


def report_html(database: Database) -> str:
    """The report as one HTML document that loads nothing (the service serves this text as it is)."""
    return render(build_page(read_inputs(database)))


def write_report(database: Database, path: Path | str) -> Path:
    """Write the report to `path` and return it; a reader of an older report never sees half of a new one.

    Raises:
        InputError: `path` is a directory.
        StoreUnwritableError: the place cannot be written to.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(
            f"the report is one file, but {target} is a directory; name a file in it, e.g. {target / 'report.html'}"
        )
    _write(target, report_html(database).encode("utf-8"))
    return target


def write_figures(database: Database, directory: Path | str) -> list[Path]:
    """Write every figure of the report as PDF, SVG and PNG (two pixels per unit) and return the files.

    Raises:
        InputError: `directory` is a file.
        StoreUnwritableError: the place cannot be written to.
    """
    folder = Path(directory)
    if folder.exists() and not folder.is_dir():
        raise InputError(f"figures go into a directory, but {folder} is a file")
    written = []
    of = f"Sweep {database.sweeps[0]}. " if len(database.sweeps) == 1 else ""
    for figures in all_figures(read_inputs(database)).values():
        for figure in figures:
            for ending, content in _pictures(figure, of=of):
                _write(folder / f"{figure.name}.{ending}", content)
                written.append(folder / f"{figure.name}.{ending}")
    return written


def _pictures(figure: Figure, *, of: str) -> Iterator[tuple[str, bytes]]:
    """The figure in each format: on white, with title and caption, from the page's own specification.

    `of`: words before the caption, since a picture goes without the page that says which sweep it is of.
    """
    import vl_convert

    spec: dict[str, Any] = figure.specification()
    spec["title"] = {"text": figure.title, "subtitle": _lines(of + figure.caption)}
    if "facet" in spec:
        spec["columns"] = min(figure.columns, figure.panels)
    else:
        # A single panel would be narrower than its own caption.
        spec["width"] = max(int(spec.get("width") or 0), 520)
    spec["config"] = {**chart_config(LIGHT), "font": PRINT_FONT, "background": "white", "padding": 14}
    text = json.dumps(spec)
    svg: str = vl_convert.vegalite_to_svg(text, allowed_base_urls=[])
    yield "svg", svg.encode("utf-8")
    yield "pdf", vl_convert.svg_to_pdf(svg)
    yield "png", vl_convert.svg_to_png(svg, scale=PNG_SCALE)


def _lines(caption: str, *, width: int = 92) -> list[str]:
    """The caption cut into lines: text in a chart does not wrap by itself."""
    import textwrap

    return textwrap.wrap(caption, width)


def _write(path: Path, content: bytes) -> None:
    with whole(path) as place:
        place.write_bytes(content)
