"""Experiments: the figures of the source papers and our own, each beside its baselines in the same run.

Some run on what the tests have too: this machine as two hosts, fleets in a closed loop (``tests/support``).
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests"))
