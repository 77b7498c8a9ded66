from __future__ import annotations

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from fairmedfm_monai.fairness.ranks import nemenyi
from fairmedfm_monai.reporting import plots
from fairmedfm_monai.reporting.critical_difference import critical_difference
from tests.reporting.sheets import assert_readable, hatched, texts


def scores(n=10, k=14, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, k)) * 0.05 + np.linspace(0.6, 0.9, k)
    names = [f"a_foundation_model-with-long-name-{j}" for j in range(k)]
    return pd.DataFrame(values, index=[f"dataset_{i}" for i in range(n)], columns=names)


def draw(table, **options):
    return critical_difference(nemenyi(table, higher_is_better=True), **options)


@pytest.mark.parametrize(("n", "k"), [(10, 14), (12, 13), (3, 2), (5, 3), (20, 21)])
def test_labels_never_overlap(n, k):
    assert_readable(draw(scores(n, k)))


def test_every_method_stands_with_its_rank():
    table = scores(10, 5)
    ranks = nemenyi(table, higher_is_better=True).friedman.average_ranks
    shown = texts(draw(table, title="AUC over datasets"))
    assert "AUC over datasets" in shown
    assert {f"{name}  {rank:.2f}" for name, rank in ranks.items()} <= set(shown)


def test_lines_are_where_the_ranks_are():
    table = pd.DataFrame(np.tile([0.9, 0.8, 0.7], (9, 1)), columns=list("abc"))
    result = nemenyi(table, higher_is_better=True)
    drawing = critical_difference(result)
    lines = drawing.figure.axes[0].lines
    axis = next(line for line in lines if np.ptp(line.get_ydata()) == 0 and np.ptp(line.get_xdata()) == 380)
    left = axis.get_xdata()[0]
    starts = sorted(line.get_xdata()[0] for line in lines if len(line.get_xdata()) == 3)
    assert starts == pytest.approx([left, left + 190, left + 380])
    bar = next(line for line in lines if line.get_color() == plots.PALETTE[0])
    assert np.ptp(bar.get_xdata()) == pytest.approx(result.critical_difference * 190)
    cliques = [line for line in lines if line.get_color() == plots.PALETTE[1]]
    assert [tuple(line.get_xdata()) for line in cliques] == [
        pytest.approx((left - 3 + 190 * i, left + 3 + 190 * (i + 1))) for i in range(2)
    ]
    assert result.cliques == [("a", "b"), ("b", "c")]


def test_what_is_missing_is_hatched_and_named():
    table = scores(8, 5)
    table.iloc[2, 1] = np.nan
    table.iloc[1:, 4] = np.nan
    drawing = draw(table)
    shown = " ".join(texts(drawing))
    assert "dataset_2 is left out: no score of" in shown
    assert "it has a score on 1 of 8 datasets" in shown
    assert len(hatched(drawing)) == 2
    assert_readable(drawing)


def test_without_ranks_the_reason_stands_in_a_hatched_field():
    table = scores(6, 4)
    table.iloc[:4, 1] = np.nan
    table.iloc[4, :2] = [np.nan, 0.4]
    drawing = draw(table.assign(other=[np.nan, np.nan, np.nan, 0.1, 0.2, 0.3]))
    assert "no ranks" in texts(drawing)
    assert "No ranks: 2 dataset(s) have every method; at least 3 are needed; without other" in " ".join(texts(drawing))
    assert len(hatched(drawing)) >= 1
    assert drawing.description.startswith("No ranks: 2 dataset(s) have every method")
    assert_readable(drawing)


def test_ties_everywhere_and_odd_names_can_be_drawn():
    table = pd.DataFrame(0.5, index=range(6), columns=["a<b", 'say "c"', "$x_1$ & d"])
    drawing = draw(table)
    assert_readable(drawing)
    assert "$x_1$ & d  2.00" in texts(drawing)


def test_files_are_the_same_every_time(tmp_path):
    first, second = draw(scores()), draw(scores())
    assert first.svg() == second.svg()
    for suffix in ("svg", "png"):
        paths = [drawing.save(tmp_path / f"{k}.{suffix}") for k, drawing in enumerate((first, second))]
        assert paths[0].read_bytes() == paths[1].read_bytes()
    with pytest.raises(ValueError, match=r"path: expected .*\.png or \.svg"):
        first.save(tmp_path / "figure.bmp")


def test_importing_the_figures_loads_no_matplotlib():
    code = (
        "import sys\n"
        "from fairmedfm_monai.reporting import critical_difference, favoured, tradeoff\n"
        "print(*(name for name in ('matplotlib', 'scipy.stats', 'torch', 'monai') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert done.stdout.strip() == ""
