from __future__ import annotations

import csv
import io
import itertools
import math

import numpy as np
import pytest
from scipy import stats

from fairmedfm_monai.studies.collect import collect, current
from fairmedfm_monai.studies.lookup import Numbers
from fairmedfm_monai.studies.seeds import EXPERIMENT, PATIENTS, TRAINING, Run, summarise
from fairmedfm_monai.studies.spec import Choice, Column, Dataset, Study, TableSpec
from fairmedfm_monai.studies.table_text import csv_text, letter, markdown
from fairmedfm_monai.studies.tables import Source, build_table

from .made import binary_rows, cell, finish, gap_row, group_row, planned

AUC = Column(metric="auc")
GAP = Column(metric="auc", attribute="sex", statistic="gap", title="AUC gap by sex")
SPEC = TableSpec(name="main", title="Main", rows=("dataset", "fm", "usage", "mitigation"), columns=(AUC, GAP))
DATASETS = {
    "papila": Dataset(release="papila"),
    "demo": Dataset(demo="xray", per_seed=True),
    "adni": Dataset(release="adni"),
}


def source(output, plan, *, columns=(AUC, GAP), **study):
    plan = current(plan, output)
    frame = collect(plan, output)
    made = Study(name="toy", title="Toy", datasets=DATASETS, grids=(), **study)
    stamps = dict(zip(frame["key"], (text.split(" | ") if text else [] for text in frame["stamps"]), strict=True))
    return Source(made, plan, Numbers(frame, columns), stamps)


def table(output, plan, spec=SPEC, **study):
    return build_table(spec, source(output, plan, columns=spec.columns, **study))


def wide(output, plan, spec=SPEC):
    """The CSV file as dictionaries."""
    return list(csv.DictReader(io.StringIO(csv_text(table(output, plan, spec), choices=[], paper=False))))


@pytest.mark.parametrize("seed", range(3))
def test_seeds_agree_with_students_interval_of_scipy(seed):
    values = np.random.default_rng(seed).normal(0.8, 0.03, 2 + seed)
    found = summarise([Run(k, value) for k, value in enumerate(values)], per_seed=False)
    low, high = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high), rel=1e-12)


def test_order_of_seeds_does_not_matter():
    runs = [Run(0, 0.7, 0.6, 0.8), Run(1, 0.9, 0.8, 0.95), Run(2, 0.75, 0.7, 0.8)]
    assert len({summarise(order, per_seed=True) for order in itertools.permutations(runs)}) == 1


def test_what_an_interval_lets_vary():
    runs = [Run(0, 0.7, 0.6, 0.8), Run(1, 0.9, 0.8, 0.95)]
    assert summarise(runs, per_seed=False).replicates == TRAINING
    assert summarise(runs, per_seed=True).replicates == EXPERIMENT
    alone = summarise(runs[:1], per_seed=True)
    assert (alone.low, alone.high, alone.replicates) == (0.6, 0.8, PATIENTS)
    assert summarise([Run(0, 0.7)], per_seed=False).replicates == ""


@pytest.mark.parametrize("values", [[], [0.8, math.nan]])
def test_runs_without_a_value_are_refused(values):
    with pytest.raises(ValueError, match="runs"):
        summarise([Run(k, value) for k, value in enumerate(values)], per_seed=False)


def test_a_row_is_the_mean_of_its_seeds(tmp_path):
    values = {0: (0.80, 0.10), 1: (0.84, 0.12), 2: (0.82, 0.05)}
    for seed, numbers in values.items():
        finish(tmp_path, cell(seed=seed), *binary_rows(*numbers))
    (row,) = table(tmp_path, [planned(cell(seed=seed)) for seed in values]).rows
    for entry, numbers in zip(row.entries, np.array(list(values.values())).T, strict=True):
        assert entry.summary.value == pytest.approx(numbers.mean())
        low, high = stats.t.interval(0.95, 2, loc=numbers.mean(), scale=stats.sem(numbers))
        assert entry.summary.high == pytest.approx(high)
        assert entry.summary.low == pytest.approx(max(low, 0))
        assert entry.summary.n == 3
    assert row.entries[0].summary.own_low == pytest.approx(0.75)


def test_missing_cells_show_why_and_never_a_number(tmp_path):
    statuses = ["no data", "no weights", "not offered", "left out", "ready"]
    plan = [
        planned(cell(fm=fm), status)
        for fm, status in zip(("clip", "blip", "plip", "dinov2", "siglip"), statuses, strict=True)
    ]
    rows = wide(tmp_path, plan)
    assert [row["AUC missing"] for row in rows] == [*statuses[:-1], "not run"]
    assert {row["AUC"] for row in rows} == {""}
    text = markdown(table(tmp_path, plan), choices=[], paper=False)
    assert all(status in text for status in statuses[:-1])
    assert "0.000" not in text
    assert "nan" not in text


def test_seeds_that_are_missing_are_counted_with_their_reason(tmp_path):
    finish(tmp_path, cell(seed=0), *binary_rows(0.8, 0.1))
    finish(tmp_path, cell(seed=1), *binary_rows(0.9, 0.1))
    (row,) = wide(tmp_path, [planned(cell(seed=seed)) for seed in range(3)])
    assert row["AUC missing"] == "2 of 3 seeds: not run"
    assert float(row["AUC"]) == pytest.approx(0.85)


def test_an_undefined_number_shows_its_reason(tmp_path):
    groups, _ = binary_rows(0.8, 0.1)
    finish(tmp_path, cell(), groups, [gap_row(math.nan, half=None, reason="one group has one class only")])
    (row,) = wide(tmp_path, [planned(cell())])
    assert row["AUC gap by sex"] == ""
    assert row["AUC gap by sex missing"] == "one group has one class only"
    assert float(row["AUC"]) == 0.8


def test_a_number_that_a_cell_does_not_report_is_not_blank(tmp_path):
    finish(tmp_path, cell(), *binary_rows(0.8, 0.1))
    spec = TableSpec(name="t", title="T", rows=("fm",), columns=(Column(metric="dice"),))
    (row,) = wide(tmp_path, [planned(cell())], spec)
    assert row["Dice missing"] == "not reported by this cell"


def test_different_settings_are_never_averaged(tmp_path):
    cells = [
        cell(),
        cell(usage="lora"),
        cell("demo"),
        cell(label="sgd"),
        cell(mitigation="group_dro", attributes=("sex",)),
    ]
    for position, made in enumerate(cells):
        finish(tmp_path, made, *binary_rows(0.6 + 0.05 * position, 0.1))
    spec = TableSpec(name="t", title="T", rows=("fm",), columns=(AUC,))
    made = table(tmp_path, [planned(one) for one in cells], spec)
    assert sorted(row.entries[0].summary.value for row in made.rows) == pytest.approx([0.6, 0.65, 0.7, 0.75, 0.8])
    assert all(entry.summary.n == 1 for row in made.rows for entry in row.entries)
    assert "usage" in made.notes[0]


def test_order_of_the_plan_changes_no_number(tmp_path):
    cells = [cell(seed=seed, fm=fm) for seed in range(3) for fm in ("clip", "blip")]
    for position, made in enumerate(cells):
        finish(tmp_path, made, *binary_rows(0.6 + 0.01 * position, 0.1))
    plan = [planned(one) for one in cells]
    one, other = (table(tmp_path, order).rows for order in (plan, plan[::-1]))
    assert {row.names: row.entries for row in one} == {row.names: row.entries for row in other}


def test_a_column_per_label(tmp_path):
    groups = [
        group_row(0.9, metric="dice", label="cup"),
        group_row(0.7, metric="dice", label="rim"),
        group_row(0.8, metric="dice"),
    ]
    made = cell(fm="sam", task="segmentation", usage="lora")
    finish(tmp_path, made, groups, [])
    spec = TableSpec(
        name="t", title="T", rows=("fm",), columns=(Column(metric="dice", label="*"), Column(metric="dice"))
    )
    (row,) = wide(tmp_path, [planned(made)], spec)
    assert (row["Dice, cup"], row["Dice, rim"], row["Dice"]) == ("0.9", "0.7", "0.8")


def test_where_chooses_cells(tmp_path):
    plan = [planned(cell(fm=fm), "no data") for fm in ("clip", "blip", "plip")]
    spec = TableSpec(
        name="t", title="T", rows=("fm",), columns=(AUC,), where={"fm": ["clip", "plip"], "usage": "linear_probe"}
    )
    assert [row.names for row in table(tmp_path, plan, spec).rows] == [("clip",), ("plip",)]


AGAINST = TableSpec(name="t", title="T", rows=("dataset", "mitigation"), columns=(AUC, GAP), against="erm")


def both(output, seeds, **more):
    """erm at 0.8 + seed / 100 and a method that adds 0.02, 0.03, ..."""
    plan = []
    for seed in seeds:
        plain, better = cell(seed=seed, **more), cell(seed=seed, mitigation="group_dro", attributes=("sex",), **more)
        finish(output, plain, *binary_rows(0.8 + seed / 100, 0.1))
        finish(output, better, *binary_rows(0.82 + 2 * seed / 100, 0.05))
        plan += [planned(plain), planned(better)]
    return plan


def test_differences_are_paired_by_seed(tmp_path):
    (row,) = table(tmp_path, both(tmp_path, range(4)), AGAINST).rows
    differences = np.array([0.02, 0.03, 0.04, 0.05])
    low, high = stats.t.interval(0.95, 3, loc=differences.mean(), scale=stats.sem(differences))
    found = row.entries[0]
    assert (found.summary.value, found.summary.low, found.summary.high) == pytest.approx(
        (differences.mean(), low, high)
    )
    assert found.excludes_zero
    assert row.entries[1].summary.value == pytest.approx(-0.05)  # of a gap: differences may be negative
    assert row.names[1] == "group_dro"


def test_a_single_pair_has_no_interval(tmp_path):
    made = table(tmp_path, both(tmp_path, [0]), AGAINST)
    (row,) = made.rows
    assert math.isnan(row.entries[0].summary.low)
    assert not row.entries[0].excludes_zero
    assert "no interval" in markdown(made, choices=[], paper=False)


def test_no_difference_without_its_partner(tmp_path):
    plan = both(tmp_path, range(2))
    alone = cell("demo", mitigation="group_dro", attributes=("sex",))
    finish(tmp_path, alone, *binary_rows(0.9, 0.1))
    waiting = cell(mitigation="resampling", seed=0)
    finish(tmp_path, waiting, *binary_rows(0.9, 0.1))
    rows = wide(tmp_path, [plan[1], planned(alone), plan[3]], AGAINST)
    assert {row["AUC missing"] for row in rows} == {"no erm to compare with"}
    lost = planned(cell("adni"), "no data")
    rows = wide(tmp_path, [lost, planned(cell("adni", mitigation="group_dro"), "no data")], AGAINST)
    assert rows[0]["AUC missing"] == "no data"


def test_the_partner_is_of_the_same_label_where_there_is_one(tmp_path):
    cells = [cell(), cell(label="long"), cell(label="long-eta", mitigation="group_dro", attributes=("sex",))]
    for auc, made in zip((0.5, 0.7, 0.8), cells, strict=True):
        finish(tmp_path, made, *binary_rows(auc, 0.1))
    (row,) = table(tmp_path, [planned(one) for one in cells], AGAINST).rows
    assert row.entries[0].summary.value == pytest.approx(0.1)


def test_rows_carry_their_stamps_and_choices(tmp_path):
    choices = (
        Choice(what="six diseases", value=6, source="ours"),
        Choice(what="loss", value="CE", source="paper"),
        Choice(what="LoRA rank", value=4, source="ours", where={"usage": "lora"}),
    )
    finish(tmp_path, cell(), *binary_rows(0.8, 0.1), banners=["tiny random weights: no meaning"])
    finish(tmp_path, cell(usage="lora"), *binary_rows(0.8, 0.1))
    made = table(tmp_path, [planned(cell()), planned(cell(usage="lora"))], choices=choices)
    assert [row.ours for row in made.rows] == [(0,), (0, 1)]
    assert [row.stamps for row in made.rows] == [("tiny random weights: no meaning",), ()]
    text = markdown(made, choices=["six diseases", "LoRA rank"], paper=True)
    assert "tiny random weights; ours: a" in text
    assert "ours b: LoRA rank (not published: no reproduction)." in text


def test_intervals_stay_within_what_a_metric_can_be(tmp_path):
    for seed, auc in enumerate((0.7, 0.99)):
        finish(tmp_path, cell(seed=seed), *binary_rows(auc, 0.01 + seed / 10))
    (row,) = table(tmp_path, [planned(cell(seed=seed)) for seed in range(2)]).rows
    assert [(entry.summary.low, entry.summary.high)[k] for k, entry in ((1, row.entries[0]), (0, row.entries[1]))] == [
        1,
        0,
    ]


def test_files_say_what_was_replicated(tmp_path):
    plan = []
    for dataset in ("papila", "demo"):
        for seed in range(2):
            finish(tmp_path, cell(dataset, seed=seed), *binary_rows(0.8 + seed / 50, 0.1))
            plan.append(planned(cell(dataset, seed=seed)))
    rows = wide(tmp_path, plan)
    assert [row["AUC interval over"] for row in rows] == [TRAINING, EXPERIMENT]
    text = markdown(table(tmp_path, plan), choices=[], paper=False)
    assert "2 seeds)" in text
    assert "2 replications)" in text


def test_letters_never_end():
    assert [letter(k) for k in (0, 25, 26, 701, 702)] == ["a", "z", "aa", "zz", "aaa"]
