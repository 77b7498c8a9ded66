"""The page docs/add_a_model.md, followed word for word in a copy of the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from fairmedfm_monai.data.demo.build import demo_folder

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "add_a_model.md"
# A file's name before its content, or commands.
BLOCK = re.compile(r"(?:^`(?P<file>[^`\n]+)`:\n\n)?^```(?P<kind>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NEW_FILES = [
    "fairmedfm_monai/networks/encoders/convnext.py",
    "fairmedfm_monai/catalog/rows/convnext.json",
    "tests/networks/test_convnext.py",
]
BUNDLE = "bundles/convnext_classification_linear_probe"


def blocks() -> list[dict[str, str | None]]:
    return [match.groupdict() for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page's steps read of a checkout."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("pyproject.toml", "scripts/render_bundles.py", "tests/conftest.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    # With compiled modules, which saves seconds per command.
    shutil.copytree(ROOT / "fairmedfm_monai", folder / "fairmedfm_monai")
    shutil.copytree(ROOT / "tests" / "networks", folder / "tests" / "networks")
    for made in ("bundles", "docs"):
        (folder / made).mkdir()
    return folder


@pytest.fixture(scope="module")
def outputs(checkout: Path, xray_dir: Path, tracking_uri: str, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What each block of commands printed, after all blocks were followed in their order."""
    home = tmp_path_factory.mktemp("home")
    # The built-in radiographs, fewer than usual.
    shutil.copytree(xray_dir, demo_folder("xray", home, "phantom"))
    environment = {
        **os.environ,
        "FAIRMEDFM_HOME": str(home),
        "MLFLOW_TRACKING_URI": tracking_uri,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(checkout),
    }
    printed = []
    for block in blocks():
        text = str(block["text"])
        if block["file"] is not None:
            assert not (checkout / block["file"]).exists(), f"{block['file']} is no new file"
            (checkout / block["file"]).write_text(text, encoding="utf-8")
            continue
        assert block["kind"] == "sh", f"neither a named file nor commands: {text[:80]}"
        command = ["bash", "-e", "-c", text]
        done = subprocess.run(
            command, cwd=checkout, env=environment, capture_output=True, encoding="utf-8", check=False, timeout=500
        )
        assert done.returncode == 0, f"{text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        printed.append(done.stdout)
    return printed


def test_the_page_adds_one_file_and_one_row_and_their_test() -> None:
    named = [block["file"] for block in blocks() if block["file"] is not None]
    assert named == NEW_FILES
    code = next(str(block["text"]) for block in blocks() if block["file"] == NEW_FILES[0])
    written = [line for line in code.splitlines() if line.strip() and not line.startswith(("from ", "import "))]
    assert len(written) <= 40


def test_the_catalog_lists_it_and_its_bundles_are_rendered(checkout: Path, outputs: list[str]) -> None:
    assert re.search(r"^convnext\b.*", outputs[0], re.MULTILINE)
    rendered = sorted(path.name for path in (checkout / "bundles").glob("convnext_*"))
    usages = ("full_finetune", "linear_probe", "lora", "mlp_probe")
    assert rendered == [f"convnext_classification_{usage}" for usage in usages]
    metadata = json.loads((checkout / BUNDLE / "configs" / "metadata.json").read_text(encoding="utf-8"))
    assert metadata["required_packages_version"]["timm"]
    assert "ConvNeXt" in (checkout / "docs" / "models" / "convnext.md").read_text(encoding="utf-8")


def test_the_bundle_trains_and_evaluates(checkout: Path, outputs: list[str]) -> None:
    assert outputs
    info = json.loads((checkout / BUNDLE / "models" / "model.json").read_text(encoding="utf-8"))
    assert (info["fm"], info["variant"], info["weights"]) == ("convnext", "convnext_tiny", "tiny")
    predictions = pd.read_parquet(checkout / BUNDLE / "eval" / "predictions.parquet")
    assert len(predictions) == 24 + 48
    assert not predictions["failed"].any()
    assert "tiny random weights" in (checkout / BUNDLE / "eval" / "report.html").read_text(encoding="utf-8")


def test_its_tests_pass(outputs: list[str]) -> None:
    assert any("4 passed" in text for text in outputs)


def test_its_code_passes_the_linter(checkout: Path, outputs: list[str]) -> None:
    assert outputs
    files = [name for name in NEW_FILES if name.endswith(".py")]
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, *files]
        done = subprocess.run(ruff, cwd=checkout, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stdout


def test_contributors_find_the_page() -> None:
    assert "(docs/add_a_model.md)" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
