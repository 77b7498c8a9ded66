"""From what an engine holds after an iteration to rows of the predictions table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from fairmedfm_monai.data.dataset import DatasetInfo

UNKNOWN = "unknown"
Row = dict[str, Any]
Result = TypeVar("Result")


def case_row(case: Mapping[str, Any], attributes: Sequence[str], default_split: str) -> Row:
    """Identity of a case: ids, split, groups. Everything but the image is optional.

    Args:
        case: one decollated item of ``engine.state.batch``.
        attributes: names of the attributes that the table has columns for.
        default_split: for cases that name no split.

    Returns:
        ``case_id`` (file name when the case has none), ``patient_id`` (the case's own id when it has none), ``split``,
        one column per attribute (``unknown`` where there is none) and ``failed`` ("" or ``<case_id>: <reason>`` of the
        case that this one stands in for).
    """
    case_id = str(case.get("case_id") or _file_name(case))
    groups = case.get("attributes") or {}
    return {
        "case_id": case_id,
        "patient_id": str(case.get("patient_id") or case_id),
        "split": str(case.get("split") or default_split),
        **{name: str(groups.get(name) or UNKNOWN) for name in attributes},
        "failed": str(case.get("failed") or ""),
    }


def _file_name(case: Mapping[str, Any]) -> str:
    meta = getattr(case.get("image"), "meta", None) or {}
    path = meta.get("filename_or_obj") or ""
    if not path:
        msg = (
            "a case has neither `case_id` nor an image that knows its file name, so it cannot be told from a padded "
            "duplicate; give each data dict a `case_id`"
        )
        raise ValueError(msg)
    return Path(str(path)).name


def classification_values(output: Mapping[str, Any], info: DatasetInfo) -> Row:
    """Label and score columns of one case.

    Args:
        output: one decollated item of ``engine.state.output``: ``pred`` probabilities (C,), or (1,) for the positive
            class of a binary task; ``label`` a class index, or 0/1 values (C,) for multi-label.
        info: gives the class order, the positive class and whether the task is multi-label.

    Returns:
        ``label`` (int) and ``score``; for more than two classes ``score_<class>``; for multi-label
        ``label_<class>`` and ``score_<class>``.

    Raises:
        ValueError: when ``pred`` has another number of channels than there are classes.
    """
    classes = list(info.classes)
    scores = to_numpy(output["pred"]).astype(np.float64).reshape(-1)
    label = to_numpy(output["label"]).reshape(-1)
    binary = len(classes) == 2 and not info.multi_label
    if binary and scores.size == 1:
        return {"label": int(label[0]), "score": float(scores[0])}
    if scores.size != len(classes):
        msg = f"`pred` must hold one probability per class {classes}, but it has {scores.size} value(s) per case"
        raise ValueError(msg)
    if binary:
        return {"label": int(label[0]), "score": float(scores[classes.index(positive_class(info))])}
    columns: Row = {f"score_{name}": float(score) for name, score in zip(classes, scores, strict=True)}
    if info.multi_label:
        return {f"label_{name}": float(value) for name, value in zip(classes, label, strict=True)} | columns
    return {"label": int(label[0])} | columns


def positive_class(info: DatasetInfo) -> str:
    """The class whose score is reported for two classes: the card's, else the second."""
    return info.positive_class or list(info.classes)[-1]


def to_numpy(value: Any) -> NDArray[Any]:
    """A tensor on any device, or anything array-like, as an array."""
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)


def failed_row(row: Row, info: DatasetInfo, attributes: Sequence[str]) -> Row:
    """Turn a stand-in into the row of the case that it stands in for.

    The identity comes from the dataset's table, so that a failed case counts in its own groups; a case that the
    table does not know keeps ``unknown`` groups.
    """
    case_id, _, reason = row["failed"].partition(": ")
    identity: Row = {"case_id": case_id, "patient_id": case_id, "split": row["split"]}
    identity |= dict.fromkeys(attributes, UNKNOWN)
    known = info.table[info.table["case_id"].astype(str) == case_id]
    if len(known):
        first = known.iloc[0].to_dict()
        kept = {name: value for name, value in first.items() if name in identity or name.startswith("label")}
        identity |= kept | {"case_id": case_id, "patient_id": str(first["patient_id"])}
    return identity | {"failed": reason or "could not be read"}


def gather(rows: list[Row]) -> list[Row]:
    """All ranks' rows, in rank order; a collective operation when there is more than one process."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return rows
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, rows)
    return [row for part in parts for row in part]


def on_rank0(work: Callable[[], Result]) -> Result:
    """Do something on rank 0 only and give every rank its result; a collective operation.

    Raises:
        RuntimeError: on the other ranks, when the work failed on rank 0, which raises the error itself.
    """
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return work()
    outcome: list[Any] = [None, None]
    error: Exception | None = None
    if dist.get_rank() == 0:
        try:
            outcome[0] = work()
        except Exception as caught:  # the others wait for an answer whatever happens here
            error, outcome[1] = caught, f"{type(caught).__name__}: {caught}"
    dist.broadcast_object_list(outcome, src=0)
    if error is not None:
        raise error
    if outcome[1] is not None:
        msg = f"rank 0 could not finish: {outcome[1]}"
        raise RuntimeError(msg)
    result: Result = outcome[0]
    return result


def unique_rows(rows: Sequence[Row], order: Mapping[str, int]) -> list[Row]:
    """One entry per case, label and prompt, in an order that does not depend on how cases were spread over ranks.

    Samplers pad shards with repeated cases; of a case that worked once and failed once the working one is kept.

    Args:
        rows: gathered rows, stand-ins already turned into failed cases.
        order: case id -> position in the dataset.
    """
    best: dict[tuple[str, str, str], Row] = {}
    worked = {row["case_id"] for row in rows if not row["failed"]}
    for row in rows:
        if row["failed"] and row["case_id"] in worked:
            continue
        # Labels of classification are values, not part of what identifies a row.
        label = row.get("label") if "prompt" in row else ""
        best.setdefault((row["case_id"], str(label), str(row.get("prompt", ""))), row)
    return sorted(best.values(), key=lambda row: (order.get(row["case_id"], len(order)), row["case_id"]))
