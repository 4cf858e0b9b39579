"""Runs `graphjobs` and weighs it: its output first, then a line with its seconds and its peak memory; run as a program.

Its processes are weighed together, what they share counted in each: what they take at most, and no less.
"""

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

import psutil  # type: ignore[import-untyped]

_PROGRAM: Final = Path(sys.executable).with_name("graphjobs")
_WEIGHED_EVERY_SECONDS: Final = 0.1


def main(limit_seconds: float, arguments: list[str]) -> int:
    """Runs it to its end, and ends it where that takes too long or this process is to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before its end"))
    started = time.perf_counter()
    with subprocess.Popen([_PROGRAM, *arguments]) as process:
        peak = _Peak(psutil.Process(process.pid))
        peak.start()
        try:
            code = process.wait(limit_seconds)
        except BaseException:
            process.kill()
            raise
    seconds = time.perf_counter() - started
    peak.join()
    print(json.dumps({"seconds": seconds, "peakMegabytes": peak.size / 1e6}), flush=True)
    return code


class _Peak(threading.Thread):
    """Looks now and then how much memory a process and those it has started take."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.size = 0
        self._process = process

    def run(self) -> None:
        try:
            while self._process.is_running():
                every = [self._process, *self._process.children(recursive=True)]
                self.size = max(self.size, sum(_size_of(each) for each in every))
                time.sleep(_WEIGHED_EVERY_SECONDS)
        except psutil.NoSuchProcess:
            return


def _size_of(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
