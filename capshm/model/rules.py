"""The rules by their names, and the refusal that names one.

A rule is a row of a table of capshm's own, written down from CheriBSD's pull request #2225, its manual pages and tests:
"cheribsd:E2". Some names are no rows: "cheribsd:1.D/3" is a step in the order of shm_open's checks, "cheribsd:MAN" a
check of the manual pages that the rows take for granted, "isolated" the answer of the policy of that name, "host" that
of this machine's kernel, and "credentials" that of the broker to a packet from somebody else.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from capshm.model import rows_mapping, rows_revocation, rows_sharing
from capshm.model.constants import ERRNO


class Rule(NamedTuple):
    """A row: what `capshm explain` shows. errno: the name of what a refusal by it gives; None if it refuses nothing."""

    name: str
    title: str
    text: str
    errno: str | None


class Refusal(Exception):
    """A call was refused, and nothing was changed.

    rule: the full name of the row that refused. asked, allowed, needed: parts of the message: the request; what stands
    against it; what the caller can do instead. errno: that of the rule, where the rule has only one.
    """

    def __init__(self, rule: str, *, asked: str, allowed: str, needed: str, errno: str | None = None) -> None:
        super().__init__(f"{asked}: {allowed}. Needed: {needed}.")
        name = errno or RULES[rule].errno
        if name is None:
            raise ValueError(f"rule {rule} refuses nothing")
        self.rule = rule
        self.errno = ERRNO[name]

    @property
    def message(self) -> str:
        """All of it, in one line."""
        return str(self.args[0])


def _read(table: str, prefix: str = "") -> dict[str, Rule]:
    """Read paragraphs that begin with "NAME [ERRNO] title" and go on with the text."""
    rules = {}
    for paragraph in table.strip().split("\n\n"):
        head, _, text = paragraph.partition("\n")
        name, _, title = head.partition(" ")
        first, _, rest = title.partition(" ")
        errno, title = (first, rest) if first in ERRNO else (None, title)
        rules[prefix + name] = Rule(prefix + name, title, " ".join(text.split()), errno)
    return rules


RULES: Final = {
    **_read(rows_mapping.TABLE, "cheribsd:"),
    **_read(rows_sharing.TABLE, "cheribsd:"),
    **_read(rows_revocation.TABLE, "cheribsd:"),
    **_read(rows_sharing.OTHERS),
}
"""Every rule by its full name, in the order of the tables."""
