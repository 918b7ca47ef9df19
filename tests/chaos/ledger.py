"""What users know: each thing they asked for, and what they were told about it.

A request whose answer did not come is neither accepted nor refused: the row may be there. What one user asks for
is never asked for by the same user again, so user, video, quality and format name an asking.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Outcome = Literal["accepted", "refused", "unknown"]


@dataclass(frozen=True)
class Wish:
    user: str
    video: str
    quality: str
    format: str

    def body(self) -> dict[str, str]:
        return {
            "url": f"https://www.youtube.com/watch?v={self.video}",
            "quality": self.quality,
            "format": self.format,
        }


@dataclass
class Asking:
    """`ids` are all that were told in answers; more than one means that it was accepted twice. `cancel` and `retry`
    are the status that was answered to the only one sent, 0 where no answer came."""

    wish: Wish
    outcome: Outcome = "unknown"
    ids: set[str] = field(default_factory=set)
    cancel: int | None = None
    retry: int | None = None


@dataclass
class Ledger:
    askings: list[Asking] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    # A file that a user fetched: the download, and the hash of what came whole.
    fetched: list[tuple[str, str]] = field(default_factory=list)

    def ask(self, wish: Wish) -> Asking:
        asking = Asking(wish)
        self.askings.append(asking)
        return asking

    def accepted(self) -> list[Asking]:
        return [asking for asking in self.askings if asking.outcome == "accepted"]
