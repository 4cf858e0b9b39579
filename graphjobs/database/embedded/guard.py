"""Remove a temporary cluster as soon as its owner has ended, however it ended.

`python -m graphjobs.database.embedded.guard OWNER_FILE [BIN_DIR]` waits for the end of its standard input, which the
owner holds open. It runs in a session of its own, so that no signal to the owner or its terminal ends it.
"""

import sys
import time
from pathlib import Path

from graphjobs.database.embedded.server import remove_orphan

_SECONDS = 60
_POLL_SECONDS = 0.05


def main(owner_file: Path, bin_dir: Path | None) -> None:
    """Wait for the end of the owner, and remove what it left."""
    sys.stdin.buffer.read()
    deadline = time.monotonic() + _SECONDS
    # The kernel closes the pipe of a dying process and its lock in any order.
    while not remove_orphan(owner_file, bin_dir=bin_dir) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if sys.argv[2:] else None)
