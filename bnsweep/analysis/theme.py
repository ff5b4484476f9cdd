"""How charts look: one look for paper, one for bright and one for dark screens.

Colours are Okabe and Ito's (2008), which people with any of the common colour-vision deficiencies tell
apart; on dark pages their light versions. Placements also differ by the shape of their points, so a
grey print still reads.
"""

from __future__ import annotations

from typing import Any

__all__ = ["DARK", "FONT", "LIGHT", "PRINT_FONT", "SHAPES", "chart_config"]

# The browser takes the first that the reader's system has; vl-convert brings Liberation Sans for pictures.
FONT = "Helvetica Neue, Segoe UI, DejaVu Sans, Liberation Sans, Arial, sans-serif"
PRINT_FONT = "Liberation Sans, Arial, DejaVu Sans, sans-serif"

SHAPES = ["circle", "square", "diamond", "triangle-up", "triangle-down", "cross", "triangle-right", "triangle-left"]

LIGHT: dict[str, Any] = {
    "ink": "#1c2330",
    "soft": "#566072",
    "grid": "#e3e7ee",
    "axis": "#8a93a3",
    "page": "transparent",
    "category": ["#0072b2", "#d55e00", "#00805c", "#b0508c", "#7a6a00", "#3b8fc4", "#5b4bb5", "#4d4d4d"],
}

DARK: dict[str, Any] = {
    "ink": "#e8ebf1",
    "soft": "#aab3c2",
    "grid": "#2d3543",
    "axis": "#6c7789",
    "page": "transparent",
    "category": ["#56b4e9", "#ff9249", "#2fc99a", "#e79ac7", "#e8d44d", "#9ad0f2", "#a99bf0", "#bdbdbd"],
}


def chart_config(look: dict[str, Any]) -> dict[str, Any]:
    """The Vega-Lite `config` of a look (LIGHT or DARK)."""
    everywhere, nowhere = look["category"][:2]  # BN's ends come first among series, and end the scale between
    ink, soft, grid, axis = look["ink"], look["soft"], look["grid"], look["axis"]
    return {
        "background": look["page"],
        "font": FONT,
        "view": {"stroke": None},
        "title": {
            "color": ink, "subtitleColor": soft, "anchor": "start", "frame": "group", "fontSize": 14,
            "fontWeight": 600, "subtitleFontSize": 11.5, "subtitlePadding": 4, "offset": 10,
        },
        "header": {
            "labelColor": ink, "titleColor": soft, "labelFontSize": 12.5, "labelFontWeight": 600,
            "labelAnchor": "start", "labelPadding": 6, "labelLimit": 0,
        },
        "axis": {
            "labelColor": soft, "titleColor": soft, "labelFontSize": 11, "titleFontSize": 11.5, "titleFontWeight": 500,
            "gridColor": grid, "domainColor": axis, "tickColor": axis, "titlePadding": 7, "labelLimit": 220,
        },
        "axisX": {"grid": False},
        "axisY": {"domain": False, "ticks": False, "labelPadding": 6},
        "legend": {
            "labelColor": ink, "titleColor": soft, "labelFontSize": 11.5, "titleFontSize": 11.5, "orient": "top",
            "titleFontWeight": 500, "labelLimit": 320, "symbolSize": 80, "symbolStrokeWidth": 2, "columnPadding": 16,
            "offset": 12,
        },
        "range": {"category": look["category"], "ramp": [nowhere, everywhere], "symbol": SHAPES},
        "line": {"strokeWidth": 2},
        "rule": {"color": axis},
        "text": {"color": ink, "fontSize": 11},
        "point": {"size": 46, "strokeWidth": 1.6},
        "bar": {"continuousBandSize": 12},
    }  # fmt: skip
