"""What can be wrong with a document, one finding at a time.

Owns the finding and what reading does with it: the parsers of this room hand every offence to a
`report` function; reading raises at the first, validation collects them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InvalidReferences

__all__ = ["Finding", "Reporter", "raise_finding"]

_SIMPLE = re.compile(r"[!-~]+(?: [!-~]+)*")
"""Keys that a line of text can hold as they are."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One offence.

    `code` is a short fixed name for programs; `stage` one of "structure" (what the JSON Schemas
    say), "metadata", "chunks", "sources", "pixels"; `severity` "error" or "warning"; `key` where it
    is; `n_more` how many more keys have the same; `hint` what to do about it.
    """

    code: str
    stage: str
    what: str
    key: str | None = None
    got: str | None = None
    expected: str | None = None
    severity: str = "error"
    n_more: int = 0
    hint: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Give the finding as plain values."""
        return asdict(self)

    def to_error(self, url: str | None = None) -> InvalidReferences:
        """Give the finding as an error."""
        hint = f"{self.n_more} more keys have the same problem." if self.n_more else self.hint
        return InvalidReferences(
            self.what,
            url=url,
            tag=self.key if self.key is None or _SIMPLE.fullmatch(self.key) else repr(self.key),
            got=self.got,
            expected=self.expected,
            hint=hint,
        )


Reporter = Callable[[Finding], None]

_TOLERATED = frozenset({"top-level"})
"""Offences that do not change what the references mean."""


def raise_finding(finding: Finding) -> None:
    """Raise what makes a document unreadable: the `report` of reading."""
    if finding.severity == "error" and finding.code not in _TOLERATED:
        raise finding.to_error()
