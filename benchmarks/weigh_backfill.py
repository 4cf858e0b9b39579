"""Runs `graphjobs` and weighs it: its output first, then a line with its seconds and its peak memory; run as a program.

What a process is started by counts into its peak, as Linux has it: so a small one starts it, and not the benchmarks.
"""

import json
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

_BYTES_OF_UNIT: Final = 1 if sys.platform == "darwin" else 1_024
_PROGRAM: Final = Path(sys.executable).with_name("graphjobs")


def main(limit_seconds: float, arguments: list[str]) -> int:
    """Runs it to its end, and ends it where that takes too long or this process is to end."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended before its end"))
    started = time.perf_counter()
    code = subprocess.run([_PROGRAM, *arguments], timeout=limit_seconds, check=False).returncode
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _BYTES_OF_UNIT
    print(json.dumps({"seconds": seconds, "peakMegabytes": peak / 1e6}), flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
