"""An end for every page: yt-dlp reads answers of sites whole, unpacked, and into memory."""

from typing import Any

from ytdl.child.errors import Refused

MAX_PAGE_BYTES = 32 * 2**20
"""Unpacked."""
PIECE_BYTES = 2**20


def bound(answer: Any) -> Any:
    """The same answer of yt-dlp's, whose `read` raises Refused where it goes on and on."""
    read, left = answer.read, MAX_PAGE_BYTES

    def read_some(amount: int) -> bytes:
        nonlocal left
        piece: bytes = read(amount)
        left -= len(piece)
        if left < 0:
            answer.close()
            raise Refused("upstream_error", "The site's answer has no end.")
        return piece

    def read_bounded(amount: int | None = None) -> bytes:
        if amount is not None and amount >= 0:
            return read_some(amount)
        return b"".join(iter(lambda: read_some(PIECE_BYTES), b""))

    answer.read = read_bounded
    return answer
