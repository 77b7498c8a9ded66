"""The wheel alone is enough: data, bundles and templates are in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package installed from its wheel into an empty folder."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "fairmedfm_monai", source / "fairmedfm_monai", ignore=shutil.ignore_patterns("__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    _call([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)])
    wheel = next(folder.glob("*.whl"))
    _call([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(wheel)])
    return folder / "site"


def _call(command: list[str], **options: object) -> str:
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=400, **options)
    assert done.returncode == 0, f"{command}\n{done.stdout[-1500:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_everything_the_package_reads_is_in_the_wheel(installed: Path) -> None:
    package = installed / "fairmedfm_monai"
    for name in (
        "catalog/rows/clip.json",
        "bundle/files/LICENSE",
        "reporting/templates/report.html.j2",
        "networks/pretrained/demo_clip.safetensors",
        "networks/pretrained/demo_sam.safetensors",
        "py.typed",
    ):
        assert (package / name).is_file(), name


def test_a_bundle_rendered_by_the_wheel_runs(installed: Path, xray_dir: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    options = {"cwd": tmp_path, "env": environment}
    where = _call([sys.executable, "-c", "import fairmedfm_monai; print(fairmedfm_monai.__file__)"], **options)
    assert str(installed) in where
    name = "demo_clip_classification_zero_shot"
    _call([sys.executable, "-m", "fairmedfm_monai", "bundle", name, "--output", "out"], **options)
    arguments = ["--dataset_dir", str(xray_dir), "--tracking_uri", "off", "--n_bootstrap", "20"]
    run = [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/evaluate.json", *arguments]
    _call(run, cwd=tmp_path / "out" / name, env=environment)
    assert (tmp_path / "out" / name / "eval" / "report.html").is_file()
