"""Labels of the CheXpert labeller (Irvin et al., AAAI 2019), as CheXpert and MIMIC-CXR ship them, and label rules.

A cell is 1 (positive), 0 (negative), -1 (uncertain) or empty (not mentioned in the report).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from fairmedfm_monai.data.problems import Problem, examples, raise_errors

NO_FINDING = "No Finding"
FINDINGS = (
    *(NO_FINDING, "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other"),
    *("Fracture", "Support Devices"),
)
FIVE = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
POSITIVE_IS_NORMAL = (
    "The positive class is no_finding: positive means normal. A false positive is a missed finding, so that the "
    "false-positive rate is the rate of under-diagnosis."
)
_SETS = {"fourteen_labels": FINDINGS, "five_findings": FIVE}
_WORDS = {
    "fourteen_labels": "fourteen independent labels, No Finding and Support Devices among them",
    "five_findings": "the five findings of the CheXpert competition, independent labels",
}
_POLICIES = {
    "": "uncertain counts as absent (u_zeros)",
    "_u_ones": "uncertain counts as present",
    "_u_ignore": "images with an uncertain label are left out",
}
RULES = {
    "any_finding": "no finding against anything else; positive: finding",
    "no_finding": "the same labels, but positive: no_finding (positive means normal), as FairMedFM has it",
    **{f"{name}{policy}": f"{_WORDS[name]}; {meaning}" for name in _SETS for policy, meaning in _POLICIES.items()},
}
_STATES = {
    **dict.fromkeys(("1", "1.0"), "positive"),
    **dict.fromkeys(("0", "0.0"), "negative"),
    **dict.fromkeys(("-1", "-1.0"), "uncertain"),
    "": "not mentioned",
}


def check_cells(file: Path, raw: pd.DataFrame) -> None:
    """Check the columns `FINDINGS` of an owner's table.

    Raises:
        DatasetError: cells that are none of the four states.
    """
    problems = []
    for name in FINDINGS:
        strange = raw[name][~raw[name].isin(list(_STATES))].value_counts()
        if len(strange):
            listed = examples(f"{value!r} ({number})" for value, number in strange.items())
            problems.append(Problem("label", f"column {name!r} must hold 1, 0, -1 or nothing, but got {listed}"))
    raise_errors(file, problems)


def truth(raw: pd.DataFrame, rule: str) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The label columns of a rule.

    Args:
        raw: checked columns `FINDINGS`, as text.
        rule: one of `RULES`.

    Returns:
        ``label``, or a 0/1 column per class; rows that the rule leaves out are not in it. And notes with counts.
    """
    states = raw[list(FINDINGS)].apply(lambda column: column.map(_STATES))
    if rule in ("any_finding", "no_finding"):
        label = (states[NO_FINDING] == "positive").map({True: "no_finding", False: "finding"})
        named = states[[name for name in FINDINGS if name not in (NO_FINDING, "Support Devices")]]
        bare = (label == "finding") & ~named.isin(["positive", "uncertain"]).any(axis=1)
        only = (label == "finding") & ~(named == "positive").any(axis=1) & ~bare
        return label.to_frame("label"), (
            f"'finding' is every image that is not marked No Finding: of {int((label == 'finding').sum()):,}, in "
            f"{int(only.sum()):,} all findings are uncertain, and {int(bare.sum()):,} name none (devices at most)",
        )
    name, policy = _parts(rule)
    chosen = states[list(_SETS[name])]
    uncertain = chosen == "uncertain"
    count = int(uncertain.any(axis=1).sum())
    note = f"{count:,} images have an uncertain label: {_POLICIES[policy]}"
    positive = (chosen == "positive") | (uncertain if policy == "_u_ones" else False)
    if policy == "_u_ignore":
        positive = positive[~uncertain.any(axis=1)]
    return positive.astype(int).astype(str).rename(columns=slug), (note,)


def card_parts(rule: str) -> dict[str, Any]:
    """``classes`` with prompts, the first of them FairMedFM's, and what else a card needs for a rule."""
    diseased = ["a chest X-ray of a diseased", "a chest X-ray of a diseased patient", "an abnormal chest radiograph"]
    binary = {"finding": diseased, "no_finding": _prompts(NO_FINDING)}
    if rule == "any_finding":
        return {"classes": dict(reversed(binary.items())), "positive_class": "finding"}
    if rule == "no_finding":
        return {"classes": binary, "positive_class": "no_finding", "notice": POSITIVE_IS_NORMAL}
    return {"classes": {slug(name): _prompts(name) for name in _SETS[_parts(rule)[0]]}, "multi_label": True}


def slug(finding: str) -> str:
    """Class name of a finding."""
    return finding.lower().replace(" ", "_")


def stratify(rule: str) -> list[str]:
    """Columns of `truth` that a split balances first."""
    return ["label"] if rule in ("any_finding", "no_finding") else [slug(name) for name in FIVE]


def _parts(rule: str) -> tuple[str, str]:
    name = next(name for name in _SETS if rule.startswith(name))
    return name, rule.removeprefix(name)


def _prompts(finding: str) -> list[str]:
    if finding == NO_FINDING:
        return ["a chest X-ray of a normal", "a chest X-ray with no finding", "a normal chest radiograph"]
    words = finding.lower()
    return [f"a chest X-ray of a patient with {words}", f"a chest radiograph showing {words}", f"chest X-ray: {words}"]
