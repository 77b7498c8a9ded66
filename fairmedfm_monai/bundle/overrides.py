"""Refusing misspelt overrides: MONAI adds an unknown ``--epoch 2`` to a configuration in silence."""

from __future__ import annotations

import difflib
import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import fire.parser

# Arguments of `monai.bundle run` itself, and the ones that its MLflow tracking reads.
RUN_ARGUMENTS = frozenset(
    [
        *("run_id", "init_id", "final_id", "meta_file", "config_file", "logging_file", "tracking", "args_file"),
        *("tracking_uri", "experiment_name", "run_name", "output_dir", "save_execute_config", "is_not_rank0"),
        *("override", "help"),
    ]
)


def check_overrides(arguments: Sequence[str] | None = None) -> None:
    """Stop when a command line names a key that its configuration files do not have.

    Args:
        arguments: command line without the program, by default that of this process. Nothing is checked unless it
            is one of ``python -m monai.bundle run`` (bundles that run inside another program have no command line).

    Raises:
        ValueError: lists the unknown keys, each with the nearest known ones.
    """
    if arguments is None:
        arguments = sys.argv[1:] if "monai" in Path(sys.argv[0]).parts else ()
    if not arguments or arguments[0] not in {"run", "run_workflow"}:
        return
    named = _named(arguments[1:])
    known = _known(named)
    unknown = [name for name in named if _root(name) not in known and _root(name) not in RUN_ARGUMENTS]
    if unknown:
        listed = "; ".join(f"--{name} ({_hint(name, known)})" for name in unknown)
        msg = f"these overrides are no keys of the configuration: {listed}"
        raise ValueError(msg)


def _named(arguments: Iterable[str]) -> dict[str, str]:
    """Override name -> value text, as python-fire reads ``--name value``, ``--name=value`` and ``--noname``."""
    named: dict[str, str] = {}
    pending = ""
    for argument in arguments:
        if re.match(r"--?[A-Za-z_+]", argument):
            name, _, value = argument.lstrip("-").partition("=")
            pending = name.replace("-", "_")
            named[pending] = value
        elif pending:
            named[pending] = argument
            pending = ""
    return named


def _root(name: str) -> str:
    return re.split(r"#|::", name.lstrip("+"))[0]


def _known(named: dict[str, str]) -> set[str]:
    """Top-level keys of the configuration files (and of the arguments file) that the command line names."""
    files = _paths(named.get("config_file", ""))
    known: set[str] = set()
    for arguments_file in _paths(named.get("args_file", "")):
        content = _keys(arguments_file)
        files += _paths(str(content.get("config_file", "")))
        known |= set(content)
    for file in files:
        known |= {_root(key) for key in _keys(file)}
    # python-fire turns `--noname` into name=False.
    return known | {f"no{key}" for key in known}


def _paths(text: str) -> list[Path]:
    value = fire.parser.DefaultParseValue(text) if text else []
    return [Path(str(item)) for item in (value if isinstance(value, (list, tuple)) else [value])]


def _keys(file: Path) -> dict[str, object]:
    if file.suffix in {".yaml", ".yml"}:
        import yaml

        return dict(yaml.safe_load(file.read_text(encoding="utf-8")))
    return dict(json.loads(file.read_text(encoding="utf-8")))


def _hint(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(_root(name), sorted(known), n=3)
    return f"did you mean {', '.join(near)}?" if near else "see the keys at the top of the configuration file"
