"""Write everything that an evaluation tells: two tables, ``run.json``, ``report.html`` and ``model_card.md``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.fairness.report import FairnessReport, write_table

from . import figures, forest, wording
from .context import build_context
from .files import write_atomic
from .model_card import model_card

TEMPLATE = "report.html.j2"


def write_report(
    report: FairnessReport,
    output_dir: str | Path,
    *,
    title: str,
    banners: Sequence[str] = (),
    predictions: pd.DataFrame,
    run: Mapping[str, Any] | None = None,
) -> list[Path]:
    """Write the aggregate files of an evaluation, each whole or not at all, numbers before pictures.

    None of the files names a case or a patient.

    Args:
        report: from :func:`fairmedfm_monai.fairness.evaluate_predictions`.
        output_dir: created when absent; existing files of the same names are replaced.
        title: headline, e.g. "demo_clip, linear probe".
        banners: sentences that a reader must see first.
        predictions: the table that ``report`` was made from.
        run: what else is known of the run: ``dataset``, ``dataset_title``, ``finished`` (ISO time), ``attributes``
            (name -> groups), ``reader_dice`` (label -> Dice), ``tags``, ``versions``, ``hashes``, ``seed``, ...

    Returns:
        Paths of subgroups.csv, disparities.csv, run.json, report.html and model_card.md.
    """
    folder = Path(output_dir)
    content = {
        **(run or {}),
        "title": title,
        "banners": list(banners),
        "notes": report.notes,
        "settings": report.settings,
        "metrics": report.metrics(),
    }
    text = json.dumps(jsonable(content), indent=2, ensure_ascii=False)
    context = None

    def html(path: Path) -> None:
        path.write_text(render(context or {}), encoding="utf-8")

    written = [
        write_atomic(folder / "subgroups.csv", lambda path: write_table(report.subgroups, path)),
        write_atomic(folder / "disparities.csv", lambda path: write_table(report.disparities, path)),
        write_atomic(folder / "run.json", lambda path: path.write_text(text + "\n", encoding="utf-8")),
    ]
    context = build_context(report, title=title, banners=banners, predictions=predictions, run=run or {})
    written.append(write_atomic(folder / "report.html", html))
    card = model_card(context)
    written.append(write_atomic(folder / "model_card.md", lambda path: path.write_text(card, encoding="utf-8")))
    return written


def render(context: Mapping[str, Any]) -> str:
    """The page as text; all values are escaped but the pictures, which are made here."""
    from jinja2 import Environment, PackageLoader

    loader = PackageLoader("fairmedfm_monai.reporting")
    # Every value is escaped; the template marks only our own SVG as safe.
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    box_scale = figures.scale(forest.BOX_AXIS, digits=1)
    return environment.get_template(TEMPLATE).render(**context, facts=facts(context["run"]), box_scale=box_scale)


def facts(run: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What identifies the run, for the methods box: model tags, seeds, hashes, versions."""
    found = [(wording.readable(str(key)), str(value)) for key, value in wording.described(run).items() if value]
    found += [(f"SHA-256 of {name}", str(value)) for name, value in run.get("hashes", {}).items()]
    versions = ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())
    return [*found, *([("software", versions)] if versions else [])]


def jsonable(value: Any) -> Any:
    """The same value as strict JSON holds it: NaN and infinities become null, arrays lists, paths text."""
    if isinstance(value, Mapping):
        return {str(key): jsonable(part) for key, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [jsonable(part) for part in value]
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
