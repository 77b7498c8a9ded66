"""What the integration tests share: plain words for every step, assertions that print, child processes with a log."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CLASSIFIER = "demo_clip_classification_linear_probe"
PROMPTED = "demo_sam_segmentation_prompted"

# What runs after the preparation must not need the network: every proxy-aware client would fail at once.
OFFLINE = {
    **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9"),
    **dict.fromkeys(("no_proxy", "NO_PROXY"), "127.0.0.1,localhost"),
    **dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"), "1"),
}


class StepError(Exception):
    """An assertion of an integration test that does not hold."""


def run_main(main: Callable[[], None]) -> None:
    """Run a test; an assertion that does not hold is printed without a traceback and makes the exit code 1."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that servers and children are stopped on the way out
    try:
        main()
    except StepError as error:
        print(f"  {error}", file=sys.stderr, flush=True)
        sys.exit(1)


def say(text: str) -> None:
    """Print one step."""
    print(f"  {text}", flush=True)


def check(holds: bool, text: str, found: object = "") -> None:
    """Print what holds; raise when it does not.

    Raises:
        StepError: with `text` and what was found instead.
    """
    if not holds:
        msg = f"NOT TRUE: {text}" + (f"; found {found}" if found != "" else "")
        raise StepError(msg)
    say(f"ok: {text}")


def run(command: list[str], *, log: Path, cwd: Path, env: dict[str, str] | None = None, limit: float = 900.0) -> float:
    """Run a child process to its end with its output in `log`.

    Returns:
        Seconds.

    Raises:
        StepError: it failed or took longer than `limit` seconds; with the end of its output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("w", encoding="utf-8") as out:
        try:
            code = subprocess.run(
                command, cwd=cwd, env={**os.environ, **(env or {})}, stdout=out, stderr=out, timeout=limit, check=False
            ).returncode
        except subprocess.TimeoutExpired:
            code = -1
    if code:
        what = f"took longer than {limit:.0f} s" if code == -1 else f"ended with {code}"
        msg = f"`{' '.join(command)}` {what}; {log} ends with:\n{tail(log)}"
        raise StepError(msg)
    return time.monotonic() - started


def run_bundle(bundle: Path, *arguments: str, log: Path, env: dict[str, str] | None = None) -> float:
    """``python -m monai.bundle run`` in the folder of a bundle; see `run`."""
    return run([sys.executable, "-m", "monai.bundle", "run", *arguments], log=log, cwd=bundle, env=env)


def tail(log: Path, lines: int = 25) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def read_json(path: Path) -> Any:
    """Content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def write_json(path: Path, content: object) -> None:
    """Write a JSON file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_mask(mask_file: Path, case: dict[str, Any], *, where: str) -> None:
    """A mask lies on the grid of its volume, has something in the clicked slice and nothing elsewhere.

    Args:
        mask_file: NIfTI.
        case: the ``volume`` entry of case.json: ``path``, ``click`` (voxel) and ``axis`` (that numbers the slices).
        where: who made it, for the message.
    """
    import nibabel
    import numpy as np

    volume, answer = nibabel.Nifti1Image.from_filename(case["path"]), nibabel.Nifti1Image.from_filename(mask_file)
    mask = np.asarray(answer.dataobj) > 0
    check(mask.shape == volume.shape, f"{where}: the mask has the volume's shape {volume.shape}", mask.shape)
    # A millionth of a millimetre per voxel: NIfTI keeps affines as float32 or as a quaternion.
    same = np.allclose(answer.affine, volume.affine, atol=1e-3)
    check(same, f"{where}: the mask has the volume's affine", answer.affine.tolist())
    axis, index = case["axis"], case["click"][case["axis"]]
    per_slice = np.moveaxis(mask, axis, 0).reshape(mask.shape[axis], -1).sum(axis=1)
    check(bool(per_slice[index]), f"{where}: the clicked slice {index} holds {per_slice[index]} voxels of the mask")
    others = int(per_slice.sum() - per_slice[index])
    check(others == 0, f"{where}: every other slice is empty", f"{others} voxels elsewhere")


def check_same_mask(first: Path, second: Path, *, what: str) -> None:
    """Two masks agree in every voxel."""
    import nibabel
    import numpy as np

    one, two = (np.asarray(nibabel.Nifti1Image.from_filename(path).dataobj) > 0 for path in (first, second))
    different = int((one != two).sum()) if one.shape == two.shape else -1
    check(different == 0, f"{what}: voxel-identical ({int(one.sum())} voxels)", f"{different} voxels differ")


def check_probabilities(found: dict[str, float], expected: dict[str, float], *, where: str) -> None:
    """Class probabilities sum to one and are those that the bundle itself gave."""
    check(list(found) == list(expected), f"{where}: the classes are {', '.join(expected)}", list(found))
    check(abs(sum(found.values()) - 1.0) < 1e-4, f"{where}: the probabilities sum to 1", found)
    worst = max(abs(found[name] - expected[name]) for name in expected)
    shown = ", ".join(f"{name} {value:.4f}" for name, value in found.items())
    check(worst < 1e-4, f"{where}: {shown}, as the bundle itself says", f"{shown} against {expected}")
