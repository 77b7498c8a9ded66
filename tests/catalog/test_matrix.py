from __future__ import annotations

from fairmedfm_monai.catalog import rows
from fairmedfm_monai.catalog.matrix import PROOFS, aligned, matrix, overview
from fairmedfm_monai.catalog.row import PROOF_LEVELS, TASKS


def test_the_matrix_marks_exactly_the_bundles_there_are() -> None:
    marked = set()
    for task in TASKS:
        header, *body = matrix(task)
        for line in body:
            cells = dict(zip(header, line, strict=True))
            marked |= {f"{cells['FM']}_{task}_{name}" for name, cell in cells.items() if cell == "x"}
    assert marked == {name for row in rows().values() for name in row.bundles}


def test_columns_stand_under_each_other() -> None:
    assert aligned([["a", "bb", "c"], ["aaa", "b", "cc"]]) == ["a    bb  c", "aaa  b   cc"]


def test_a_licence_with_a_remark_is_marked() -> None:
    header, *body = matrix("classification")
    cells = next(dict(zip(header, line, strict=True)) for line in body if line[0] == "lvm_med")
    assert cells["weights licence"] == "CC-BY-NC-ND-2.0*"
    assert cells["commercial"] == "no"


def test_the_overview_has_one_line_per_model() -> None:
    first = [line.split(" ")[0] for line in overview()]
    assert [first.count(name) for name in rows()] == [1] * len(rows())


def test_every_proof_level_is_explained() -> None:
    assert tuple(PROOFS) == PROOF_LEVELS
