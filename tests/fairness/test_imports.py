"""The fairness core stays light."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys, time
start = time.process_time()
import fairmedfm_monai.fairness
print(time.process_time() - start)
heavy = [n for n in ("torch", "monai", "scipy.stats", "matplotlib", "sklearn", "pyarrow.parquet") if n in sys.modules]
print(",".join(heavy))
"""


def test_import_is_light():
    result = subprocess.run([sys.executable, "-c", CODE], capture_output=True, encoding="utf-8", check=True)
    seconds, heavy = result.stdout.splitlines()
    assert heavy == ""
    assert float(seconds) < 2.0
