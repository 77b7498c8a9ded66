from __future__ import annotations

import pytest

from fairmedfm_monai.studies.collect import collect, current
from fairmedfm_monai.studies.lookup import Numbers
from fairmedfm_monai.studies.published import INSIDE, NOT_PLANNED, OPEN, OUTSIDE, compare, flag, flag_text, where_text
from fairmedfm_monai.studies.seeds import Run, summarise
from fairmedfm_monai.studies.spec import Choice, Column, Dataset, Published, Study, TableSpec
from fairmedfm_monai.studies.table_text import UNKNOWN, markdown, rows_shown
from fairmedfm_monai.studies.tables import Source, build_table

from .made import binary_rows, cell, finish, planned

AUC = Column(metric="auc", title="Ours is called otherwise")
WHERE = {"dataset": "papila", "fm": "clip", "usage": "linear_probe", "mitigation": "erm"}
KNOWN = Published(where=WHERE, column=Column(metric="auc"), value=0.7, source="a table", settings="other optimiser")


def source(output, plan, *, published=(KNOWN,), choices=()):
    plan = current(plan, output)
    frame = collect(plan, output)
    datasets = {"papila": Dataset(release="papila"), "adni": Dataset(release="adni")}
    study = Study(name="toy", title="Toy", datasets=datasets, grids=(), published=published, choices=choices)
    stamps = {key: [text] for key, text in zip(frame["key"], frame["stamps"], strict=True) if text}
    return Source(study, plan, Numbers(frame, [AUC, *(known.column for known in published)]), stamps)


@pytest.mark.parametrize(("value", "expected"), [(0.59, OUTSIDE), (0.6, INSIDE), (0.7, INSIDE), (0.81, OUTSIDE)])
def test_where_a_published_number_lies(value, expected):
    assert flag(value, summarise([Run(0, 0.7, 0.6, 0.8)], per_seed=False)) == expected


def test_without_an_interval_or_a_number_nothing_is_claimed():
    assert flag(0.7, summarise([Run(0, 0.7)], per_seed=False)) == OPEN
    assert flag(0.7, None) == ""


def test_the_flag_says_when_only_the_interval_over_trainings_leaves_it_out():
    ours = summarise([Run(0, 0.80, 0.6, 0.9), Run(1, 0.801, 0.6, 0.9)], per_seed=False)
    text = flag_text(0.7, ours)
    assert text.startswith(f"{OUTSIDE} (training)")
    assert "within the runs' own intervals" in text
    assert "within" not in flag_text(0.5, ours)


def test_what_stands_against_a_reproduction_is_named(tmp_path):
    finish(tmp_path, cell(), *binary_rows(0.8, 0.1), banners=["tiny random weights: no meaning"])
    choices = [Choice(what="rank", value=4, source="ours"), Choice(what="loss", value="CE", source="paper")]
    (found,) = compare(source(tmp_path, [planned(cell())], choices=tuple(choices)))
    assert found.against == ("other optimiser", "tiny random weights: no meaning", "ours: rank")
    assert found.flag == OUTSIDE


def test_published_numbers_that_no_cell_answers_are_listed(tmp_path):
    other = Published(where={"fm": "medclip"}, column=AUC, value=0.5, source="x")
    missing = Published(where={"dataset": "adni"}, column=AUC, value=0.5, source="x")
    plan = [planned(cell()), planned(cell("adni"), "no data")]
    found = compare(source(tmp_path, plan, published=(other, missing)))
    assert [one.entry.missing for one in found] == [NOT_PLANNED, "no data"]
    assert [one.flag for one in found] == ["", ""]


def test_a_number_stands_beside_the_same_number_only(tmp_path):
    for made in (cell(), cell(usage="lora"), cell("adni")):
        finish(tmp_path, made, *binary_rows(0.72, 0.1))
    columns = (AUC, Column(metric="auc", split="val"), Column(metric="auc", attribute="sex", group="male"))
    spec = TableSpec(name="t", title="T", rows=("dataset", "usage"), columns=columns)
    plan = [planned(cell()), planned(cell(usage="lora")), planned(cell("adni"))]
    made = build_table(spec, source(tmp_path, plan))
    texts = [[one.published for one in shown] for _, shown in rows_shown(made)]
    assert texts == [["0.700", UNKNOWN, UNKNOWN], [UNKNOWN] * 3, [UNKNOWN] * 3]
    text = markdown(made, choices=[], paper=True)
    assert "0.720 (0.670 to 0.770); published 0.700, inside our interval" in text
    assert "all others are unknown" in text


def test_where_is_told_in_words():
    assert where_text(KNOWN) == "papila, CLIP, linear probe, erm"
