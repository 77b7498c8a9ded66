"""The page docs/your_data.md, followed word for word on miniatures of what it describes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.miniatures import own_bids, own_dicom, own_table

PAGE = Path(__file__).parents[2] / "docs" / "your_data.md"
BLOCK = re.compile(r"^```bash\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the page's commands were run, once."""
    here = tmp_path_factory.mktemp("page")
    own_table.make(here / "ward")
    own_dicom.make_ct(here / "pacs")
    own_bids.make(here / "study")
    script = "set -e\n" + "".join(match["text"] for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8")))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=here,
        env={**os.environ, "PATH": path},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ok: 0 errors") == 3
    return here


@pytest.mark.parametrize(
    ("name", "truth", "attributes"),
    [
        ("eyes", {"no_glaucoma", "glaucoma"}, {"sex", "age", "age_bands", "bmi", "site"}),
        ("chest", {"negative", "positive"}, {"sex", "age", "age_bands", "ethnic_group", "site"}),
        ("brains", {"control", "patient"}, {"sex", "age", "age_bands"}),
        ("lesions", {"lesion"}, {"sex", "age", "age_bands"}),
    ],
)
def test_the_examples_make_what_they_say(folder: Path, name: str, truth: set[str], attributes: set[str]) -> None:
    card = json.loads((folder / name / "dataset.json").read_text(encoding="utf-8"))
    assert set(card.get("classes") or card["labels"]) == truth
    assert set(card["attributes"]) == attributes
    assert "Review them" in card["notice"]


def test_every_option_of_the_page_exists() -> None:
    from fairmedfm_monai.cli.prepare_own import KINDS, usage_lines

    known = {word for kind in KINDS for line in usage_lines(kind) for word in re.findall(r"--(\w+)", line)}
    named = set(re.findall(r"--(\w+)", PAGE.read_text(encoding="utf-8"))) - {"config_file", "dataset_dir"}
    assert named <= known
