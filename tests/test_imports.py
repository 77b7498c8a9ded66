"""What is loaded when: model libraries only by the models that need them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import fairmedfm_monai

PACKAGE = Path(fairmedfm_monai.__file__).parent
BUNDLES = Path(__file__).parents[1] / "bundles"
HEAVY = ("torch", "monai", "transformers", "timm", "open_clip", "peft", "segment_anything")
MODELS = ("transformers", "timm", "open_clip", "peft", "segment_anything")
# `attributes` computes with a network; cli.commands imports it when that command runs.
LIGHT_COMMANDS = sorted(
    f"fairmedfm_monai.cli.{file.stem}"
    for file in (PACKAGE / "cli").glob("*.py")
    if file.stem not in {"__init__", "attributes"}
)
ROOMS = sorted(f"fairmedfm_monai.{file.parent.name}" for file in PACKAGE.glob("*/__init__.py"))

# MONAI itself imports transformers and segment_anything; what counts is what comes after it.
BUILD = """
import sys
from monai.bundle import ConfigParser
before = set(sys.modules)
parser = ConfigParser()
parser.read_config(sys.argv[1])
parser.update({"bundle_root": sys.argv[2], "weights": "tiny", "device": "$torch.device('cpu')"})
parser.get_parsed_content("network_def")
new = set(sys.modules) - before
used = [name for name in sys.argv[3].split(",") if any(m == name or m.startswith(f"{name}.") for m in new)]
print("loaded:" + ",".join(used))
"""


def loaded_by(code: str, *arguments: str) -> set[str]:
    """What the subprocess lists on its line `loaded:`."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("loaded:"))
    return set(filter(None, line.removeprefix("loaded:").split(",")))


def test_the_package_and_its_command_line_load_no_model_library() -> None:
    code = (
        "import importlib, json, sys\n"
        "found = {}\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    importlib.import_module(name)\n"
        "    new = [heavy for heavy in json.loads(sys.argv[2]) if heavy in sys.modules and heavy not in found]\n"
        "    found.update({heavy: name for heavy in new})\n"
        "print('loaded:' + ','.join(f'{heavy} by {name}' for heavy, name in found.items()))"
    )
    names = ["fairmedfm_monai", "fairmedfm_monai.__main__", *LIGHT_COMMANDS, *ROOMS]
    assert len(names) > 15
    assert loaded_by(code, json.dumps(names), json.dumps(HEAVY)) == set()


@pytest.mark.parametrize(
    ("bundle", "needed"),
    [
        ("demo_clip_classification_full_finetune", set()),
        ("clip_classification_linear_probe", {"open_clip"}),
        ("dinov2_classification_linear_probe", {"timm"}),
    ],
)
def test_a_bundle_loads_only_what_its_model_needs(bundle: str, needed: set[str]) -> None:
    config = BUNDLES / bundle / "configs" / "inference.json"
    # open_clip itself imports timm and transformers.
    allowed = needed | ({"timm", "transformers"} if "open_clip" in needed else set())
    used = loaded_by(BUILD, str(config), str(BUNDLES / bundle), ",".join(MODELS))
    assert needed <= used <= allowed
