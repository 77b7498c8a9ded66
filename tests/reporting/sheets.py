"""What stands on a drawn sheet, and whether texts collide."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import combinations

import matplotlib as mpl
import numpy as np
from matplotlib.patches import Rectangle
from matplotlib.path import Path
from matplotlib.transforms import Affine2D


def texts(drawing):
    return [text.get_text() for text in drawing.figure.axes[0].texts]


def text_colours(drawing):
    return {text.get_text(): text.get_color() for text in drawing.figure.axes[0].texts}


def hatched(drawing):
    return [patch for patch in drawing.figure.axes[0].patches if patch.get_hatch()]


def fills(drawing):
    patches = drawing.figure.axes[0].patches
    return [mpl.colors.to_hex(p.get_facecolor()) for p in patches if isinstance(p, Rectangle) and not p.get_hatch()]


def markers(drawing):
    """(shape, colour, filled, x, y) of every marker, in the order of drawing."""
    found = []
    for line in drawing.figure.axes[0].lines:
        if line.get_marker() not in {"None", ""}:
            face, edge = (mpl.colors.to_hex(c) for c in (line.get_markerfacecolor(), line.get_markeredgecolor()))
            filled = face != "#ffffff"
            found.append(
                (line.get_marker(), face if filled else edge, filled, *(float(v) for v in line.get_xydata()[0]))
            )
    return found


def outline(text, renderer):
    """The turned box of a text in pixels, a little smaller than its line, since lines may touch."""
    angle = text.get_rotation()
    text.set_rotation(0)
    box = text.get_window_extent(renderer)
    text.set_rotation(angle)
    anchor = text.get_transform().transform(text.get_position())
    corners = np.array([[box.x0, box.y0], [box.x1, box.y0], [box.x1, box.y1], [box.x0, box.y1]])
    corners = corners.mean(axis=0) + (corners - corners.mean(axis=0)) * [0.98, 0.8]
    return Affine2D().rotate_deg_around(*anchor, angle).transform(corners)


def assert_readable(drawing):
    """No two texts overlap, none leaves the sheet, and the picture is well-formed without reaching for anything."""
    renderer = drawing.figure.canvas.get_renderer()
    width, height = drawing.figure.canvas.get_width_height()
    shapes = [(text.get_text(), outline(text, renderer)) for text in drawing.figure.axes[0].texts if text.get_text()]
    for name, corners in shapes:
        assert (corners >= 0).all(), f"{name!r} leaves the sheet"
        assert (corners <= [width, height]).all(), f"{name!r} leaves the sheet"
    for (one, left), (other, right) in combinations(shapes, 2):
        if (left.max(axis=0) < right.min(axis=0)).any() or (right.max(axis=0) < left.min(axis=0)).any():
            continue
        assert not Path(left, closed=False).intersects_path(Path(right, closed=False)), f"{one!r} overlaps {other!r}"
    root = ET.fromstring(drawing.svg())  # noqa: S314 - made by this package
    assert root.get("role") == "img"
    assert root.get("aria-label") == drawing.description
    links = [part.get(key) for part in root.iter() for key in part.keys() if key.endswith("href")]  # noqa: SIM118
    assert all(link.startswith("#") for link in links)
    assert not list(root.iter("{http://www.w3.org/2000/svg}style"))
