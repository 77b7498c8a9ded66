from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.reporting import plots
from fairmedfm_monai.reporting.favoured import favoured_heatmap
from tests.reporting.sheets import assert_readable, fills, hatched, texts

FMS = [f"a_foundation_model-{k}" for k in range(13)] + [
    "a_model-with-a-name-that-is-far-longer-than-any-column-is-wide"
]
DATASETS = [f"public_dataset_{k}" for k in range(9)] + ["a-dataset-with-a-name-that-is-longer-than-the-others"]


def cell(fm="clip", dataset="d0", favoured="male", gap=0.1, evidence=True, groups="female|male", reason=""):
    return {"fm": fm, "dataset": dataset, "favoured": favoured, "gap": gap} | {
        "evidence": evidence,
        "groups": groups,
        "reason": reason,
    }


def draw(cells, **options):
    return favoured_heatmap(pd.DataFrame(cells), **{"metric": "auc", "attribute": "sex", **options})


@pytest.mark.parametrize(
    "groups", [("female", "male"), tuple(f"{s}__{a}" for s in ("f", "m") for a in ("lt60", "ge60"))]
)
def test_labels_never_overlap_with_14_fms_and_10_datasets(groups):
    rng = np.random.default_rng(0)
    reasons = ("no data", "not offered", "no weights", "base not ready: chexpert/clip/linear_probe/erm/seed0")
    cells, missing = [], {}
    for fm in FMS:
        for dataset in DATASETS:
            if rng.random() < 0.2:
                missing[fm, dataset] = str(rng.choice(reasons))
                continue
            undefined = rng.random() < 0.1
            gap = math.nan if undefined else rng.random() * 0.3
            favoured = "" if undefined else str(rng.choice(groups))
            reason = "fewer than two groups have a value; without male (one class only)" if undefined else ""
            cells.append(cell(fm, dataset, favoured, gap, rng.random() < 0.5, "|".join(groups), reason))
    drawing = draw(cells, missing=missing, rows=FMS, columns=DATASETS)
    assert_readable(drawing)
    undefined = sum(math.isnan(one["gap"]) for one in cells)
    assert len(hatched(drawing)) == len(missing) + undefined + 1  # and the legend
    assert len(cells) + len(missing) == 140


def test_colour_letter_and_weight_tell_group_and_evidence():
    drawing = draw(
        [cell("a"), cell("b", favoured="female", evidence=False), cell("c", favoured="", gap=0.0, evidence=False)]
    )
    weights = {text.get_text(): text.get_weight() for text in drawing.figure.axes[0].texts}
    assert weights["m 0.100"] == "bold"
    assert weights["f 0.100"] == "normal"
    assert weights["= 0.000"] == "normal"
    female, male = plots.GROUP_COLOURS[:2]
    assert fills(drawing)[:3] == [male.lower(), plots.tint(female), "#ffffff"]
    assert {"f  best for female", "m  best for male", "=  equally good"} <= set(texts(drawing))
    assert not hatched(drawing)
    assert drawing.description.endswith(
        "3 of 3 places can be compared; beyond the interval of the gap: male 1; 0 missing."
    )


def test_missing_places_are_hatched_with_their_reason():
    drawing = draw([cell("a"), cell("b", "d1")], missing={("a", "d1"): "no data", ("b", "d0"): "base not ready: x/y"})
    shown = texts(drawing)
    assert {"no data", "(1)", "(1): base not ready: x/y", "missing or not comparable"} <= set(shown)
    assert len(hatched(drawing)) == 3
    assert "2 missing" in drawing.description
    unlisted = draw([cell("a")], rows=["a", "z"], columns=["d0"], missing={("z", "d0"): ""})
    assert "no result" in texts(unlisted)


@pytest.mark.parametrize(
    ("groups", "codes"),
    [
        (("female", "male"), ("f", "m")),
        (("lt60", "ge60"), ("<", "≥")),
        (("white", "western_asian", "black"), ("wh", "we", "b")),
        (("female__ge60", "female__lt60"), ("1", "2")),
    ],
)
def test_short_names_are_unique_and_explained(groups, codes):
    drawing = draw([cell(f"fm{k}", favoured=name, groups="|".join(groups)) for k, name in enumerate(groups)])
    shown = texts(drawing)
    for code in codes:
        length = max(map(len, codes))
        assert any(text.startswith(code) and text.endswith(" 0.100") for text in shown), (code, length)
    legends = [text for text in shown if "best for" in text]
    assert len({text.split()[0] for text in legends}) == len(groups)


@pytest.mark.parametrize("colour", [*plots.GROUP_COLOURS, *map(plots.tint, plots.GROUP_COLOURS)])
def test_text_has_enough_contrast(colour):
    def luminance(code):
        parts = [int(code[k : k + 2], 16) / 255 for k in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    light, dark = sorted((luminance(colour), luminance(plots.ink_on(colour))), reverse=True)
    assert (light + 0.05) / (dark + 0.05) >= 4.5  # WCAG 2 AA


def test_nothing_measured_at_all():
    empty = pd.DataFrame(columns=["fm", "dataset", "favoured", "gap", "evidence", "groups", "reason"])
    drawing = favoured_heatmap(empty, metric="auc", attribute="sex", rows=["a", "b"], columns=["d0"])
    assert len(hatched(drawing)) == 3
    assert "0 of 2 places" in drawing.description
    assert_readable(drawing)


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        ([cell(), cell()], {}, "several have fm clip and dataset d0"),
        ([cell()], {"rows": ["plip"]}, "fm clip, dataset d0 has no place"),
    ],
)
def test_bad_input_is_refused(cells, options, message):
    with pytest.raises(ValueError, match=message):
        draw(cells, **options)
