"""Program that runs `graphjobs` and then prints its seconds and peak memory as JSON.

The memory is the sum over all of its processes. Shared memory counts in each, so the sum is an upper bound.
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
_POLL_SECONDS: Final = 0.1


def main(limit_seconds: float, arguments: list[str]) -> int:
    """Run the command, and kill it after the limit or when this process is terminated."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
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
    """Poll the memory of a process and its children."""

    def __init__(self, process: psutil.Process) -> None:
        super().__init__(daemon=True)
        self.size = 0
        self._process = process

    def run(self) -> None:
        try:
            while self._process.is_running():
                processes = [self._process, *self._process.children(recursive=True)]
                self.size = max(self.size, sum(_size_of(process) for process in processes))
                time.sleep(_POLL_SECONDS)
        except psutil.NoSuchProcess:
            return


def _size_of(process: psutil.Process) -> int:
    try:
        return int(process.memory_info().rss)
    except psutil.NoSuchProcess:
        return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
