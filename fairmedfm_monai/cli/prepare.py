"""What ``prepare`` does for each kind of name, and its list of datasets."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fairmedfm_monai.data.prepare import PublicDataset, find_dataset, prepare_dataset, public_datasets
from fairmedfm_monai.data.problems import DatasetError, Problem


def dataset_lines() -> Iterator[str]:
    """Every public dataset: task, modality, size, attributes, access, licence."""
    for dataset in public_datasets().values():
        card = dataset.full_card(dataset.choose())
        kind = f"{card['task']}, {card['modality']}, {card['spatial_dims']}D"
        protocols = f"; protocols {', '.join(dataset.protocols)}" if dataset.protocols else ""
        yield f"{dataset.name:16} {dataset.title}: {kind}; {dataset.size}"
        yield f"{'':16} attributes {', '.join(card['attributes'])}; rules {', '.join(dataset.rules)}{protocols}"
        yield f"{'':16} licence {dataset.licence}; access {dataset.access}"


def usage_lines(dataset: PublicDataset) -> Iterator[str]:
    """How one dataset is prepared."""
    yield f"{dataset.title}: {dataset.summary}"
    yield f"access: {dataset.access}"
    yield "the release folder (`--source`) holds"
    yield from (f"  {name}: {meaning}" for name, meaning in dataset.layout.items())
    yield "label rules (`--rule`)"
    yield from (f"  {name}: {meaning}" for name, meaning in dataset.rules.items())
    if dataset.protocols:
        yield "published protocols (`--protocol`)"
        yield from (f"  {name}: {meaning}" for name, meaning in dataset.protocols.items())


def prepare_public(name: str, source: str | None, output: str | None, **options: Any) -> tuple[Path, tuple[str, ...]]:
    """Prepare a public release; the folder and the lines of its summary.

    Raises:
        DatasetError: ``source`` or ``output`` is missing (then how the dataset is prepared is told), or the release
            cannot be used.
        ValueError: an unknown dataset, rule or protocol.
    """
    dataset = find_dataset(name)
    if source is None or output is None:
        missing = "`--source RAW`" if source is None else "`--output DIR`"
        told = "\n    ".join(usage_lines(dataset))
        raise DatasetError(dataset.name, [Problem("argument", f"{missing} is needed\n    {told}")])
    choice = dataset.choose(
        rule=options.pop("rule", None), protocol=options.pop("protocol", "default"), seed=options.pop("seed", 0)
    )
    _refuse(options, ("incomplete", "workers"))
    prepared = prepare_dataset(dataset, source, output, choice=choice, **options)
    return prepared.folder, prepared.summary


def prepare_demo(name: str, output: str | None, **options: Any) -> Path:
    """Make a built-in demo dataset in its cache folder, or with options in ``output``.

    Raises:
        ValueError: an unknown name, or options without ``output``.
    """
    from fairmedfm_monai.data.demo.build import MAKERS, ensure_demo

    if name.removeprefix("demo/") not in MAKERS:
        msg = f"`name` must be one of {', '.join(f'demo/{known}' for known in MAKERS)}, but got {name!r}"
        raise ValueError(msg)
    if output is None and options:
        msg = "`--output DIR` is needed together with options: the cache holds the defaults only"
        raise ValueError(msg)
    return ensure_demo(name) if output is None else MAKERS[name.removeprefix("demo/")](Path(output), **options)


def _refuse(options: dict[str, Any], known: tuple[str, ...]) -> None:
    wrong = [name for name in options if name not in known]
    if wrong:
        named = ", ".join(f"--{name}" for name in wrong)
        every = ", ".join(f"--{name}" for name in ("source", "output", "rule", "protocol", "seed", *known))
        msg = f"unknown options {named}; there are {every}"
        raise ValueError(msg)
