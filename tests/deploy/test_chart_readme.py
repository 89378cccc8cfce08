"""The chart's README lists every value."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_readme_is_made_from_the_values_that_there_are() -> None:
    ran = subprocess.run(
        [sys.executable, "tools/chart_readme.py", "--check"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
