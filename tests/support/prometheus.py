"""A real Prometheus for tests: its own folder, port and configuration."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import yaml

from support.etcd_server import free_port
from support.processes import WAIT_S

ROOT: Final = Path(__file__).parents[2]
RULES: Final = ROOT / "deploy/helm/utilctl/rules/utilctl.yaml"
NO_PROMETHEUS: Final = "there is no prometheus here: run tools/setup_prometheus.sh .venv/prometheus"


def program(name: str) -> str | None:
    """``prometheus`` or ``promtool``; None if there is none."""
    own = ROOT / ".venv/prometheus/usr/bin" / name
    return str(own) if own.exists() else shutil.which(name)


class Prometheus:
    """Use it in ``with``. Scrapes ``targets`` every second, and evaluates the rules as often."""

    def __init__(self, folder: Path, targets: Sequence[str]) -> None:
        self._address = f"127.0.0.1:{free_port()}"
        self._folder = folder
        config = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "utilctl", "static_configs": [{"targets": list(targets)}]}],
        }
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Prometheus:
        binary = program("prometheus")
        assert binary is not None
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [
                    binary,
                    f"--config.file={self._folder}/prometheus.yml",
                    f"--storage.tsdb.path={self._folder}/data",
                    f"--web.listen-address={self._address}",
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                self._get("/-/ready")
            except OSError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline, "prometheus does not get ready"
                time.sleep(0.05)
            else:
                return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            finally:
                self._process.kill()
                self._process.wait()

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query; raises AssertionError for one that is malformed."""
        found = json.loads(self._get("/api/v1/query?" + urllib.parse.urlencode({"query": expression})))
        assert found["status"] == "success", found
        result = found["data"]["result"]
        assert isinstance(result, list)
        return result

    def documents(self, path: str) -> Any:
        """What an API path answers, without its envelope."""
        return json.loads(self._get(path))["data"]

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://{self._address}{path}", timeout=10) as answer:
            body = answer.read()
        assert isinstance(body, bytes)
        return body
