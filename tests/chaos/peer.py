"""The same on cpulimit, which holds processes back by SIGSTOP and SIGCONT, too: what a ``kill -9`` leaves stopped."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Any, Final

from chaos.observer import Observer
from chaos.targets import Target, let_everybody_run, targets
from support.processes import WAIT_S
from utilctl_common.quantities import NS_PER_S

LIMIT_PCT: Final = 10
TARGETS: Final = 8
"""On one CPU. Each may use a tenth of it, which is less than its part: each is stopped again and again."""
LATEST_NS: Final = NS_PER_S // 4
LEFT_NS: Final = 2 * NS_PER_S
"""What is still stopped after so long is left stopped: nobody is there to change it."""


def refusal() -> str | None:
    """Why this cannot be tried here; None if it can."""
    return None if shutil.which("cpulimit") else "there is no cpulimit on PATH"


def run(trials: int, seed: int) -> dict[str, Any]:
    """So many times: a cpulimit for each target, all killed at a random instant; counts who is left stopped."""
    rng = random.Random(seed)
    with targets({"signal": TARGETS}, min(os.sched_getaffinity(0))) as made, Observer(made) as observer:
        left = [_trial(made, observer, rng) for _ in range(trials)]
    return {
        "program": "cpulimit (Debian), one a target",
        "limit_pct": LIMIT_PCT,
        "trials": trials,
        "targets": trials * TARGETS,
        "left_stopped": sum(left),
        "trials_with_some_left": sum(1 for count in left if count),
    }


def _trial(made: Sequence[Target], observer: Observer, rng: random.Random) -> int:
    """Returns how many targets were left stopped."""
    limiters: list[subprocess.Popen[bytes]] = []
    begin_ns = time.monotonic_ns()
    try:
        for target in made:
            argv = ["cpulimit", "--pid", str(target.pids[0]), "--limit", str(LIMIT_PCT)]
            limiters.append(
                subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
        deadline_ns = begin_ns + int(WAIT_S * NS_PER_S)
        while len({pause.unit for pause in observer.pauses(begin_ns)}) < len(made):
            observer.see_until(time.monotonic_ns())
            assert time.monotonic_ns() < deadline_ns, "cpulimit does not stop every target"
            time.sleep(0.01)
        time.sleep(rng.random() * LATEST_NS / NS_PER_S)
    finally:
        for limiter in limiters:
            limiter.send_signal(signal.SIGKILL)
        for limiter in limiters:
            limiter.wait(WAIT_S)
    time.sleep(LEFT_NS / NS_PER_S)
    left = len(observer.paused())
    let_everybody_run(made)
    observer.see_until(time.monotonic_ns() + NS_PER_S // 50)
    observer.forget(time.monotonic_ns())
    return left
