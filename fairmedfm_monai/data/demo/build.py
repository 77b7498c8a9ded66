"""Make a built-in demo dataset on first use, once per machine, whichever process asks first."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

from fairmedfm_monai.data.demo import bias, fetch
from fairmedfm_monai.data.demo.ct2d import make_ct2d
from fairmedfm_monai.data.demo.ct3d import make_ct3d
from fairmedfm_monai.data.demo.ct_nodules import make_ct_nodules
from fairmedfm_monai.data.demo.phantom import make_phantom
from fairmedfm_monai.data.demo.scan import LIDC_PATIENT, Scan, read_scan
from fairmedfm_monai.data.demo.xray import make_xray
from fairmedfm_monai.data.home import home as default_home

logger = logging.getLogger(__name__)

VERSION = 3  # raise it whenever the same parameters would give other bytes
MAKERS: dict[str, Callable[..., Path]] = {
    "xray": make_xray,
    "ct2d": make_ct2d,
    "ct3d": make_ct3d,
    "ct-nodules": make_ct_nodules,
}
SCAN_VARIABLE = "FAIRMEDFM_DEMO_SCAN"
"""Environment variable: ``phantom`` takes the procedural phantom and never asks the network."""


def ensure_demo(name: str, *, home: str | Path | None = None) -> Path:
    """The folder of a built-in demo dataset, made when it is not there (some seconds each).

    Two processes may ask at once: one builds, the other waits. An interrupted build is never taken for a whole one.

    Args:
        name: ``demo/xray``, ``demo/ct2d``, ``demo/ct3d`` or ``demo/ct-nodules``; ``demo/`` may be left out.
        home: cache folder; default :func:`fairmedfm_monai.data.home.home`.

    Raises:
        ValueError: another name.
    """
    short = name.removeprefix("demo/")
    if short not in MAKERS:
        msg = f"`name` must be one of {', '.join(f'demo/{known}' for known in MAKERS)}, got {name!r}"
        raise ValueError(msg)
    root = Path(home) if home is not None else default_home()
    if os.environ.get(SCAN_VARIABLE) == "phantom":
        return _ensure(short, root, make_phantom, "phantom")
    real = demo_folder(short, root, LIDC_PATIENT)
    if real.is_dir():
        return real
    try:
        files = fetch.fetch_scan(home=root)
    except fetch.ScanUnavailableError as error:
        logger.warning("demo/%s uses a procedural phantom instead of the real CT: %s", short, error)
        return _ensure(short, root, make_phantom, "phantom")
    return _ensure(short, root, lambda: read_scan(files), LIDC_PATIENT)


def demo_folder(short: str, root: Path, scan_name: str) -> Path:
    """Where a built-in set lies: the name holds a key of everything that decides its bytes."""
    decisive = {
        "version": VERSION,
        "scan": scan_name,
        "strength": bias.DEFAULT_CT_STRENGTH if short.startswith("ct") else bias.DEFAULT_STRENGTH,
    }
    key = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:10]
    return root / "demo" / f"{short}-{key}"


def _ensure(short: str, root: Path, get_scan: Callable[[], Scan], scan_name: str) -> Path:
    folder = demo_folder(short, root, scan_name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(str(folder.parent / f".{folder.name}.lock")):
        if not folder.is_dir():
            for left_over in folder.parent.glob(f".partial-{folder.name}-*"):
                shutil.rmtree(left_over, ignore_errors=True)
            logger.info("making demo/%s once (kept in %s)", short, folder)
            MAKERS[short](folder, scan=get_scan())
    return folder
