"""Which group is favoured, and how many cells agree."""

from __future__ import annotations

import math
from itertools import chain, product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from fairmedfm_monai.fairness import evaluate_classification
from fairmedfm_monai.fairness.favoured import agreement, clopper_pearson, favoured_groups


def rows(dataset="d0", fm="clip", *, gap=(0.05, 0.01, 0.09), seed=0, metric="auc", **groups):
    """Rows of one run as a study collects them: groups first, then the gap."""
    base = {"dataset": dataset, "fm": fm, "seed": seed, "attribute": "sex", "metric": metric, "reason": ""}
    found = [
        {**base, "group": name, "statistic": "", "value": value, "ci_low": 0.0, "ci_high": 1.0}
        for name, value in groups.items()
    ]
    if gap is not None:
        value, low, high = gap
        found.append({**base, "group": math.nan, "statistic": "gap", "value": value, "ci_low": low, "ci_high": high})
    return found


def best(parts, **options):
    return favoured_groups(
        pd.DataFrame(list(chain.from_iterable(parts))), **{"metric": "auc", "attribute": "sex", **options}
    )


def test_the_best_group_and_its_evidence():
    cells = best(
        [
            rows("d0", "clip", female=0.80, male=0.85),
            rows("d0", "plip", female=0.80, male=0.79, gap=(0.01, 0.0, 0.05)),
            rows("d1", "clip", female=0.80, male=0.80, gap=(0.0, 0.0, 0.03)),
            rows("d1", "plip", female=0.80, male=0.90, unknown=0.99),
        ]
    )
    assert cells[["dataset", "fm"]].to_numpy().tolist() == [
        ["d0", "clip"],
        ["d0", "plip"],
        ["d1", "clip"],
        ["d1", "plip"],
    ]
    assert cells["favoured"].tolist() == ["male", "female", "", "male"]
    assert cells["least"].tolist() == ["female", "male", "", "female"]
    assert cells["gap"].tolist() == pytest.approx([0.05, 0.01, 0.0, 0.10])
    assert cells["evidence"].tolist() == [True, False, False, True]
    assert cells["reason"].tolist() == ["", "the interval of the gap holds 0", "several groups are equally good", ""]
    assert cells["groups"].tolist() == ["female|male"] * 4


def test_lower_is_better_for_errors():
    parts = [rows(metric="hd95", female=3.0, male=9.0, gap=(6.0, 2.0, 9.0))]
    assert best(parts, metric="hd95")["favoured"].tolist() == ["female"]
    assert best(parts, metric="hd95", higher_is_better=True)["favoured"].tolist() == ["male"]
    assert best(parts, metric="hd95")["gap"].tolist() == pytest.approx([6.0])


def test_undefined_groups_are_named_and_one_group_is_no_comparison():
    undefined = rows(a=0.7, b=0.9, c=math.nan)
    undefined[2]["reason"] = "one class only"
    alone = rows("d1", a=0.7, b=math.nan, gap=(math.nan,) * 3)
    cells = best([undefined, alone, rows("d2", a=0.7, b=0.8, gap=None)])
    assert cells["favoured"].tolist() == ["b", "", "b"]
    assert cells["reason"].tolist() == [
        "without c (one class only)",
        "fewer than two groups have a value; without b (no value)",
        "the gap has no interval",
    ]
    assert cells["evidence"].tolist() == [True, False, False]
    assert cells["n_groups"].tolist() == [2, 1, 2]
    assert math.isnan(cells["gap"].iloc[1])


def test_seeds_are_evidence_only_when_all_agree():
    agreeing = [rows("d0", seed=k, female=0.80 + k / 100, male=0.85, gap=(0.05, 0.01 * (k + 1), 0.1)) for k in range(3)]
    turning = [rows("d1", seed=k, female=0.80, male=(0.75, 0.95, 0.95)[k]) for k in range(3)]
    uncertain = [rows("d2", seed=k, female=0.8, male=0.9, gap=(0.1, 0.0 if k else 0.02, 0.2)) for k in range(3)]
    absent = [rows("d3", seed=0, female=0.8, male=0.9, other=0.99), rows("d3", seed=1, female=0.8, male=0.9)]
    cells = best([*agreeing, *turning, *uncertain, *absent])
    assert cells["n_runs"].tolist() == [3, 3, 3, 2]
    assert cells["favoured"].tolist() == ["male"] * 4
    assert cells["evidence"].tolist() == [True, False, False, True]
    assert cells["gap"].tolist() == pytest.approx([0.04, 0.2500 / 3, 0.1, 0.1])
    assert cells["gap_low"].tolist() == pytest.approx([0.01, 0.01, 0.0, 0.01])
    assert cells["reason"].tolist()[1:] == [
        "seeds favour different groups",
        "the interval of the gap holds 0",
        "without other (no value)",
    ]


def test_reads_the_tables_of_an_evaluation():
    rng = np.random.default_rng(0)
    n = 400
    sex = np.array(["female", "male"])[rng.integers(0, 2, n)]
    label = rng.integers(0, 2, n)
    score = np.clip(label * np.where(sex == "male", 0.6, 0.02) + rng.normal(0.2, 0.2, n), 0, 1)
    report = evaluate_classification(label, score, attributes=pd.DataFrame({"sex": sex}), n_bootstrap=0)
    results = pd.concat([report.subgroups, report.disparities]).assign(fm="clip", dataset="toy")
    cells = favoured_groups(results, metric="auc", attribute="sex")
    gap = report.disparities.query("metric == 'auc' and statistic == 'gap'").iloc[0]
    assert cells["favoured"].tolist() == ["male"]
    assert cells["evidence"].tolist() == [True]
    assert cells["gap"].iloc[0] == pytest.approx(gap["value"])
    assert cells["gap_low"].iloc[0] == pytest.approx(gap["ci_low"])


def grid(pattern, *, evidence=True):
    """Cells of FMs (rows of the pattern) by datasets: f, m, or a dot for a difference within its interval."""
    parts = []
    for (i, line), j in product(enumerate(pattern), range(len(pattern[0]))):
        ahead = {"f": "female", "m": "male", ".": "male"}[line[j]]
        values = {"female": 0.8, "male": 0.8, ahead: 0.9}
        low = 0.0 if line[j] == "." or not evidence else 0.02
        parts.append(rows(f"d{j}", f"fm{i}", gap=(0.1, low, 0.2), **values))
    return best(parts)


def test_agreement_of_fms_on_a_dataset_is_a_share_without_a_test():
    table = agreement(grid(["fm.", "fm.", "ff."]), across="fm", by=["dataset"])
    assert table["dataset"].tolist() == ["d0", "d1", "d2"]
    assert table["favoured"].tolist() == ["female", "male", ""]
    assert table["share"].tolist()[:2] == pytest.approx([1, 2 / 3])
    assert table["n_counted"].tolist() == [3, 3, 0]
    assert table["counts"].tolist() == ["female 3", "male 2, female 1", ""]
    assert table[["ci_low", "ci_high", "p_value", "p_adjusted"]].isna().all(axis=None)
    assert table["reason"].tolist()[1:] == [
        "not tested: the cells share their patients",
        "no difference beyond its interval",
    ]


def test_agreement_over_datasets_is_the_sign_test():
    table = agreement(grid(["mmmmmmmmmf", "ffff......", "mf........"]), across="dataset", by=["fm"])
    for row, (same, n) in zip(table.to_dict("records"), [(9, 10), (4, 4), (1, 2)], strict=True):
        expected = stats.binomtest(same, n)
        interval = expected.proportion_ci(method="exact")
        assert (row["n_same"], row["n_counted"]) == (same, n)
        assert row["p_value"] == pytest.approx(expected.pvalue)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx((interval.low, interval.high))
    assert table["favoured"].tolist() == ["male", "female", ""]
    assert table["reason"].iloc[2] == "as many cells favour male as female"
    assert table["p_adjusted"].tolist() == pytest.approx([3 * table["p_value"].iloc[0], 0.25, 1.0])


def test_only_differences_beyond_the_interval_count_unless_asked():
    cells = grid(["mmm.......", "..........", "ff........"])
    counted = agreement(cells, across="dataset", by=["fm"])
    assert counted["n_counted"].tolist() == [3, 0, 2]
    assert counted["n_cells"].tolist() == counted["n_favoured"].tolist() == [10, 10, 10]
    every = agreement(cells, across="dataset", by=["fm"], only_evidence=False)
    assert every["n_counted"].tolist() == [10, 10, 10]
    assert every["n_evidence"].tolist() == [3, 0, 2]
    assert every["share"].tolist() == pytest.approx([1.0, 1.0, 0.8])
    nothing = counted.iloc[1]
    assert math.isnan(nothing["share"])
    assert math.isnan(nothing["p_value"])


def test_several_groups_are_held_against_an_equal_chance_of_each():
    favourites = ["a", "a", "a", "b", "a", "a"]
    parts = [rows(f"d{k}", **{"a": 0.7, "b": 0.7, "c": 0.7, name: 0.9}) for k, name in enumerate(favourites)]
    row = agreement(best(parts), across="dataset").iloc[0]
    assert row["p_value"] == pytest.approx(3 * stats.binom.sf(4, 6, 1 / 3))
    assert row["favoured"] == "a"


def test_the_test_keeps_its_level_when_groups_are_favoured_at_random():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(200):
        best_of = rng.integers(0, 3, 9)
        cells = pd.DataFrame(
            {
                "dataset": range(9),
                "favoured": np.array(["a", "b", "c"])[best_of],
                "evidence": True,
                "groups": "a|b|c",
                "n_groups": 3,
            }
        )
        found += agreement(cells, across="dataset")["p_value"].iloc[0] <= 0.05
    assert found <= 20


@pytest.mark.parametrize("seed", range(3))
def test_order_and_names_of_groups_do_not_matter(seed):
    rng = np.random.default_rng(seed)
    pattern = ["".join(rng.choice(list("fm."), 8)) for _ in range(4)]
    cells = grid(pattern)
    base = agreement(cells, across="dataset", by=["fm"]).set_index("fm")
    shuffled = agreement(cells.iloc[rng.permutation(len(cells))], across="dataset", by=["fm"]).set_index("fm")
    swapped = agreement(
        grid([line.translate(str.maketrans("fm", "mf")) for line in pattern]), across="dataset", by=["fm"]
    )
    other = {"female": "male", "male": "female", "": ""}
    columns = ["n_same", "n_counted", "share", "p_value"]
    pd.testing.assert_frame_equal(shuffled.loc[base.index, [*columns, "favoured"]], base[[*columns, "favoured"]])
    pd.testing.assert_frame_equal(swapped.set_index("fm")[columns], base[columns])
    assert swapped["favoured"].tolist() == [other[name] for name in base["favoured"]]


@pytest.mark.parametrize(("successes", "n"), [(0, 5), (5, 5), (3, 7), (1, 1), (40, 90)])
def test_clopper_pearson_equals_scipy(successes, n):
    expected = stats.binomtest(successes, n).proportion_ci(method="exact")
    assert clopper_pearson(successes, n) == pytest.approx((expected.low, expected.high))


def test_no_rows_give_empty_tables():
    cells = best([rows(female=0.8, male=0.9)], attribute="age")
    assert cells.empty
    assert agreement(cells, across="dataset", by=["fm"]).empty


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: best([rows(female=0.8, male=0.9)], metric="selection_rate"), "no better direction"),
        (lambda: best([rows(female=0.8)], cells=("dataset", "usage")), r"results: column\(s\) usage are missing"),
        (
            lambda: best([rows(female=0.8), rows(female=0.8)]),
            "several rows for dataset d0, fm clip, seed 0, group female;",
        ),
        (lambda: agreement(grid(["fm"]), across="usage"), "cells has no column usage; it has dataset, fm"),
        (lambda: agreement(grid(["fm", "mm"]), across="dataset"), "several cells have dataset d0; name the columns"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
