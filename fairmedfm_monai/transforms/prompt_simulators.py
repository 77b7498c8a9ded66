"""The rules by which a prompt is drawn from one object of a reference mask, in a plane or in a volume."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from fairmedfm_monai.catalog.prompt_kinds import PromptKind
from fairmedfm_monai.transforms.prompt_masks import tight
from fairmedfm_monai.transforms.prompt_objects import ObjectMask, nth_true
from fairmedfm_monai.transforms.prompts import BACKGROUND, BOX_LOWER, BOX_UPPER, OBJECT

# Background points lie at most this part of the box's side, and at least this many voxels, outside of the box.
RING, LEAST_RING = 0.25, 3
# Nodes per axis of the random field that displaces the boundary of a mask.
_NODES = 4

Draw = Callable[[str], np.random.Generator]


@dataclass(frozen=True)
class Drawn:
    """What was drawn for an object.

    Attributes:
        coords: (N, D), indices of the image.
        point_labels: (N,), 1 object, 0 background, 2 and 3 box corners.
        block: of a mask prompt (bool) with the index of its first voxel (D,); None for other kinds.
    """

    coords: np.ndarray
    point_labels: list[int]
    block: tuple[np.ndarray, np.ndarray] | None = None


def draw_prompt(found: ObjectMask, kind: PromptKind, draw: Draw, *, label: ObjectMask) -> Drawn:
    """The first prompt of an object.

    Args:
        found: the object, in a tight block.
        kind: any but text and user.
        draw: gives the random numbers for a key.
        label: all voxels of the object's label in the same plane or volume, none of which is background.
    """
    rng, none = draw(kind.draw_key), np.zeros((0, found.mask.ndim), dtype=int)
    if kind.base == "mask":
        return Drawn(none, [], displaced(found, kind.jitter, rng) if kind.jitter else (found.mask, found.start))
    is_box = kind.base == "box"
    objects = none if is_box else object_points(found, kind, rng)
    negatives = (
        background_points(found, label, kind.negatives, draw(f"{kind.draw_key}-neg")) if kind.negatives else none
    )
    corners = jittered_box(found, kind.jitter, rng) if is_box else none
    point_labels = [OBJECT] * len(objects) + [BACKGROUND] * len(negatives) + [BOX_LOWER, BOX_UPPER] * is_box
    return Drawn(np.concatenate([objects, negatives, corners]), point_labels)


def jittered_box(found: ObjectMask, percent: float, rng: np.random.Generator) -> np.ndarray:
    """Box (2, D) around an object, inclusive corners; tight where `percent` is 0.

    Each of the 2 D coordinates of its corners is moved on its own by a uniform offset of up to +-`percent` % of the
    tight box's own side along that axis (its side is the number of voxels it covers). Corners that change places are
    swapped, so that at least one voxel is left, and the box is cut to the image.
    """
    box = found.box
    if not percent:
        return box
    side = box[1] - box[0] + 1
    moved = np.sort(box + rng.uniform(-1, 1, size=box.shape) * side * percent / 100, axis=0)
    return np.clip(moved, 0, np.array(found.shape) - 1).round(4)


def object_points(found: ObjectMask, kind: PromptKind, rng: np.random.Generator) -> np.ndarray:
    """Object points (N, D) of the kinds center, point and points, distinct; fewer if the object is smaller."""
    if kind.base == "center":
        return deepest_point(found)
    if kind.depth is not None:
        return point_at_depth(found, kind.depth, rng)
    if kind.spread:
        return spread_points(found, kind.count, rng)
    return any_points(found, kind.count, rng)


def any_points(found: ObjectMask, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` distinct object voxels (N, D), all equally likely; fewer if the object is smaller."""
    return found.voxels(rng.choice(found.size, size=min(count, found.size), replace=False))


def deepest_point(found: ObjectMask) -> np.ndarray:
    """The voxel (1, D) that is deepest inside, also when the object is concave or in several parts.

    It is the maximum of the Euclidean distance transform, with everything outside the picture as background: in pixels
    within a slice, in millimetres in a volume. Of several maxima it is the one nearest to the centre of gravity, and of
    those the first in index order.
    """
    places = found.from_lattice(np.argwhere(found.depth == found.depth.max()))
    from_centre = (((places - found.centroid) * found.spacing) ** 2).sum(axis=1)
    return places[[np.argmin(from_centre.round(6))]]


def point_at_depth(found: ObjectMask, percent: float, rng: np.random.Generator) -> np.ndarray:
    """An object voxel (1, D) whose depth is nearest to `percent` % of the greatest depth, any of those that are.

    Depth is the distance to the nearest voxel outside, as in `deepest_point`; 100 is the deepest, 0 the border.
    """
    inside = np.argwhere(found.mask[found.lattice])
    depth = found.depth[tuple(inside.T)]
    miss = np.abs(depth - depth.max() * percent / 100).round(6)
    return found.from_lattice(rng.choice(inside[miss == miss.min()], size=1))


def spread_points(found: ObjectMask, count: int, rng: np.random.Generator) -> np.ndarray:
    """Farthest-point sampling: any object voxel first, then always the one farthest from all before, (N, D).

    Of several farthest ones it is the first in index order. Gonzalez, Clustering to minimize the maximum intercluster
    distance, 1985.
    """
    places = np.argwhere(found.mask[found.lattice])
    scale = found.spacing * [span.step for span in found.lattice]
    chosen = [int(rng.integers(len(places)))]
    nearest = np.full(len(places), np.inf)
    while len(chosen) < min(count, len(places)):
        offsets = (places - places[chosen[-1]]) * scale
        nearest = np.minimum(nearest, (offsets**2).sum(axis=1))
        chosen.append(int(nearest.argmax()))
    return found.from_lattice(places[chosen])


def background_points(found: ObjectMask, label: ObjectMask, count: int, rng: np.random.Generator) -> np.ndarray:
    """Distinct voxels (N, D) near an object, none of them of its label; fewer where there is not so much background.

    They come, all equally likely, from the object's tight box widened on every side by a quarter of its own side
    (`RING`), at least by 3 voxels (`LEAST_RING`), and cut to the image.
    """
    low, high = found.box
    ring = np.maximum(np.ceil((high - low + 1) * RING).astype(int), LEAST_RING)
    low, high = np.maximum(low - ring, 0), np.minimum(high + ring, np.array(label.shape) - 1)
    free = ~label.window(low, high)
    total = int(np.count_nonzero(free))
    return nth_true(free, rng.choice(total, size=min(count, total), replace=False)) + low


def displaced(found: ObjectMask, percent: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The object with its boundary moved in and out; its tight block and the index of that block's first voxel.

    With s the signed distance to the boundary (positive inside), r = `percent` % of the object's greatest depth and g
    a smooth random field within [-1, 1], the new object is where s + r g > 0: no piece of the boundary moves farther
    than r, give or take half a voxel. The field is uniform at 4 nodes per axis, spread evenly over the widened box,
    and multilinear in between. What leaves the image is cut off; the deepest voxel always stays.
    """
    reach = percent / 100 * found.depth.max()
    steps = np.array([span.step for span in found.lattice])
    margin = np.ceil(reach / (found.spacing * steps)).astype(int) + 1
    margin = np.where(np.array(found.shape) > 1, margin, 0)  # an axis of a single voxel has no boundary
    inside = np.pad(found.mask[found.lattice], [(m, m) for m in margin])
    scale = found.spacing * steps
    nodes = rng.uniform(-1, 1, size=[min(_NODES, n) for n in inside.shape])
    field = ndimage.zoom(nodes, np.array(inside.shape) / nodes.shape, order=1, mode="nearest")
    # Distances are between centres of voxels; the boundary lies half-way.
    half = scale.min() / 2
    signed = np.where(inside, _distance(inside, scale) - half, half - _distance(~inside, scale))
    block = signed + reach * field > 0
    first = found.from_lattice(-margin[None])[0]
    if (steps > 1).any():
        block = _refined(signed + reach * field, steps)
    low = np.maximum(first, 0)
    high = np.minimum(first + block.shape, found.shape)
    block = block[tuple(slice(a, b) for a, b in zip(low - first, high - first, strict=True))].copy()
    block[tuple(deepest_point(found)[0] - low)] = True
    return tight(block, low)


def _distance(mask: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Distance of every true voxel to the nearest false one; of a mask without any false one, infinite."""
    if mask.all():
        return np.full(mask.shape, np.inf)
    return ndimage.distance_transform_edt(mask, sampling=scale)


def _refined(field: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Where a field given at every `steps`-th voxel is positive, interpolated linearly to all voxels."""
    shape = tuple((np.array(field.shape) - 1) * steps + 1)
    fine = ndimage.affine_transform(
        field.astype(np.float32), 1 / steps, output_shape=shape, order=1, mode="nearest", output=np.float32
    )
    return fine > 0
