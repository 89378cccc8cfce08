"""The chart's README.md from its values.yaml: comments that begin with ``# --`` describe the value below them.

python tools/chart_readme.py [--check]
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import yaml

CHART: Final = Path(__file__).parents[1] / "deploy/helm/utilctl"
_DESCRIPTION: Final = re.compile(r"^\s*# -- (.*)$")
_MORE: Final = re.compile(r"^\s*# (?!-- )(.*)$")
_KEY: Final = re.compile(r"^(\s*)([A-Za-z0-9]+):")

HEAD: Final = """\
# utilctl chart

Agents as a DaemonSet, controllers as a Deployment, and a role that lets agents see the labels of pods.

    helm install utilctl deploy/helm/utilctl -n utilctl --create-namespace
    kubectl label pod my-pod svc=web
    kubectl -n utilctl exec deploy/utilctl-controller -- utilctl set-share svc=web 3

[docs/install-kubernetes.md](../../../docs/install-kubernetes.md) goes through it.

## Values

| value | default | |
|---|---|---|
"""


def described(text: str) -> dict[str, str]:
    """What the comments say, by the dotted name of the value."""
    found: dict[str, str] = {}
    path: list[str] = []
    about: list[str] = []
    for line in text.splitlines():
        if begun := _DESCRIPTION.match(line):
            about = [begun[1]]
        elif about and (more := _MORE.match(line)):
            about.append(more[1])
        elif key := _KEY.match(line):
            path = [*path[: len(key[1]) // 2], key[2]]
            if about:
                found[".".join(path)] = " ".join(about)
            about = []
    return found


def leaves(values: object, name: str, about: dict[str, str]) -> Iterator[tuple[str, object]]:
    """Values with their dotted names; one that is described is not taken apart."""
    if isinstance(values, dict) and values and name not in about:
        for key, value in values.items():
            yield from leaves(value, f"{name}.{key}" if name else key, about)
    else:
        yield name, values


def readme() -> str:
    """The whole page."""
    text = (CHART / "values.yaml").read_text()
    about = described(text)
    rows = [
        f"| `{name}` | `{json.dumps(value)}` | {about.get(name, '')} |"
        for name, value in leaves(yaml.safe_load(text), "", about)
    ]
    return HEAD + "\n".join(rows) + "\n"


def main() -> int:
    """Write the page, or with ``--check`` say whether it is up to date."""
    target = CHART / "README.md"
    if "--check" in sys.argv[1:]:
        if target.read_text() != readme():
            print(f"{target} is out of date: run python tools/chart_readme.py", file=sys.stderr)
            return 1
        return 0
    target.write_text(readme())
    return 0


if __name__ == "__main__":
    sys.exit(main())
