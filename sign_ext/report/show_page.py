"""The page of `sign-ext show`: one self-contained HTML file."""

from __future__ import annotations

from typing import Any

import numpy as np

from sign_ext.report.delta_picture import color_scale, scale_of
from sign_ext.report.plots import DARK, LIGHT
from sign_ext.report.show_figure import Look, histogram_svg
from sign_ext.report.shown import Shown
from sign_ext.report.view import data_uri, environment

TEMPLATE = "show.html.j2"
HEAT_MAPS = ("heat_map", "blended_heat_map", "overlay")
WIDEST = 8  # pictures beside each other
SMOOTH_FROM = 160  # pixels; smaller images are enlarged without smoothing


def render_show(
    shown: Shown, look: Look, *, title: str, about: str, facts: dict[str, str], command: str
) -> str:
    """Return the page's HTML, which loads nothing from elsewhere.

    Args:
        shown: the images.
        look: how δ is drawn on them.
        title: of the page.
        about: a line on the network and the images.
        facts: name → what to say about how the page was made.
        command: that made it.
    """
    return (
        environment()
        .get_template(TEMPLATE)
        .render(
            title=title,
            about=about,
            facts=facts,
            command=command,
            findings=shown.findings(),
            images=(images := _images(shown, look)),
            columns=_columns(len(images[0]["pictures"])),
            enlarged=max(shown.originals.shape[2:]) < SMOOTH_FROM,
            steps=sorted(shown.snapshots),
            scale=shown.scale,
            look=look,
            strip=_strip(look),
            changes=shown.changes(),
            answered=bool(shown.answers),
            answers=_answers(shown),
            histograms=_histograms(shown),
        )
    )


def _columns(pictures: int) -> int:
    """Spread an image's pictures evenly over rows of at most `WIDEST`."""
    rows = -(-pictures // WIDEST)
    return -(-pictures // rows)


def _images(shown: Shown, look: Look) -> list[dict[str, Any]]:
    """Return, for each image, its heading and its pictures with their captions."""
    found = []
    for place in range(len(shown)):
        label, name = label_and_name(shown, place)
        by_title = {"before": 0, **{f"K = {k}": k for k in shown.snapshots}}
        pictures = []
        for title, pixels in look.pictures(shown, place).items():
            k = by_title.get(title)
            answer = str(shown.answers[k][place]) if k is not None and shown.answers else ""
            alt = f"{label}, {title}" + (f", answer {answer}" if answer else "")
            pictures.append(
                {"uri": data_uri(_encode(pixels), "png"), "title": title, "alt": alt}
                | {"answer": answer}
            )
        end = scale_of(shown.delta[place], look.values, look.outlier_percentile)
        found.append({"label": label, "name": name, "pictures": pictures, "end": end})
    return found


def _strip(look: Look) -> str:
    """Return the colours of the heat maps as a data: URI, "" if there are none."""
    if not any(method in HEAT_MAPS for method in look.methods):
        return ""
    return data_uri(_encode(color_scale(look.values, look.colormap)), "png")


def label_and_name(shown: Shown, place: int) -> tuple[str, str]:
    """Return the class of an image, or else its number, and what it is called, which may be ""."""
    label = shown.labels[place] if shown.labels else f"image {place + 1}"
    return label, shown.names[place] if shown.names else ""


def _encode(pixels: np.ndarray) -> bytes:
    """Encode uint8 (H, W, 3 or 4) as PNG."""
    from sign_ext.report.plots import png

    return png(pixels)


def _answers(shown: Shown) -> list[dict[str, Any]]:
    """Return a row for each image: its class, and the answer at each K."""
    rows = []
    for place in range(len(shown) if shown.answers else 0):
        label, name = label_and_name(shown, place)
        cells = [
            {
                "name": answers[place].name,
                "probability": answers[place].probability,
                "turned": answers[place].name != shown.answers[0][place].name,
            }
            for _, answers in sorted(shown.answers.items())
        ]
        rows.append({"label": label, "name": name, "cells": cells})
    return rows


def _histograms(shown: Shown) -> list[dict[str, str]]:
    found = []
    for (edges, shares), label, caption, first in (
        (shown.histogram(), "grey level", "Grey levels before and after, of all channels", 0),
        (shown.change_histogram(), "change in grey levels", "Change of the values, p*_K − p", 1),
    ):
        light, dark = (histogram_svg(edges, shares, label, theme, first) for theme in (LIGHT, DARK))
        found.append(
            {
                "light": data_uri(light, "svg+xml"),
                "dark": data_uri(dark, "svg+xml"),
                "alt": f"{caption}, as histograms",
                "caption": f"{caption}: share of values in each of {len(edges) - 1} bins, on a "
                "logarithmic axis",
            }
        )
    return found
