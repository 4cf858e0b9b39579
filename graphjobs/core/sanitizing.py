"""Text of others made safe to store in an error, and to show on a terminal."""

import re
from typing import Final

ERROR_LENGTH_MAX: Final = 4_000
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# Control characters, bidirectional controls, line and paragraph separators, lone surrogates.
_UNPRINTABLE: Final = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)


def sanitize_error(text: str) -> str:
    """Return text that fits the field `error`: cut in the middle to 4,000 characters, control characters replaced.

    The tail stays because the last line of a traceback says most.
    """
    if len(text) > ERROR_LENGTH_MAX:
        head, tail = text[: ERROR_LENGTH_MAX // 4], text[-(ERROR_LENGTH_MAX // 2) :]
        text = f"{head}\n[{len(text) - len(head) - len(tail)} characters cut]\n{tail}"
    text = text.replace("\r\n", "\n").encode("utf-8", "replace").decode()
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text) or "no reason was given"


def printable(text: str) -> str:
    """Return text for a terminal: characters that control it, or that reorder its text, are replaced."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)
