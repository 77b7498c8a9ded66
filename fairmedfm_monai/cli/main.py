"""Commands of ``python -m fairmedfm_monai`` and their exit codes.

Exit codes: 0 fine, 1 the answer is no (a dataset folder with errors), 3 bad input, usage errors included.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

import fire
from fire.core import FireExit

from fairmedfm_monai.cli import commands
from fairmedfm_monai.networks.integrity import WeightsError

BAD_INPUT = 3

COMMANDS: dict[str, Callable[..., object]] = {
    "catalog": commands.catalog,
    "bundle": commands.bundle,
    "prepare": commands.prepare,
    "validate": commands.validate,
    "weights": commands.weights,
    "evaluate": commands.evaluate,
    "attributes": commands.attributes,
    "demo": commands.demo,
    "study": commands.study,
}


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command and exit."""
    try:
        fire.Fire(COMMANDS, command=list(arguments) if arguments is not None else None, name="fairmedfm_monai")
    except FireExit as done:
        # python-fire ends usage errors with 2, which in this project's `gate` means "insufficient evidence".
        sys.exit(0 if done.code == 0 else BAD_INPUT)
    except (ValueError, OSError, KeyError, WeightsError) as error:
        print(f"error: {error.args[0] if isinstance(error, KeyError) else error}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    sys.exit(0)
