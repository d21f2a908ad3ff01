"""The rules by their names, and the refusal that names one.

A rule is a row of a table of capshm's own, written down from CheriBSD's pull request #2225, its manual pages and tests:
"cheribsd:E2". Some names are no rows: "cheribsd:1.D/3" is a step in the order of shm_open's checks, "cheribsd:MAN" a
check of the manual pages that the rows take for granted, "isolated" the answer of the policy of that name, "host" that
of this machine's kernel, and "credentials" that of the broker to a packet from somebody else.

Zircon's rules are steps of the orders of its kernel's checks: "vmar:1.3/8d".
"""

from __future__ import annotations

from typing import Final, NamedTuple

from capshm.model import rows_mapping, rows_revocation, rows_sharing, rows_vmar
from capshm.model.constants import ERRNO
from capshm.model.zircon_constants import STATUS


class Rule(NamedTuple):
    """A row: what `capshm explain` shows. errno: the name of the errno, or of Zircon's status, that a
    refusal by it gives; None if it refuses nothing.
    """

    name: str
    title: str
    text: str
    errno: str | None


class _RuleRefusal(Exception):
    """A call was refused by a rule.

    rule: the full name of the row that refused. asked, allowed, needed: parts of the message: the request; what stands
    against it; what the caller can do instead.
    """

    def __init__(self, rule: str, *, asked: str, allowed: str, needed: str) -> None:
        super().__init__(f"{asked}: {allowed}. Needed: {needed}.")
        self.rule = rule

    @property
    def message(self) -> str:
        """All of it, in one line."""
        return str(self.args[0])

    def _named(self, name: str | None) -> str:
        """The name of the error, or the rule's own."""
        found = name or RULES[self.rule].errno
        if found is None:
            raise ValueError(f"rule {self.rule} refuses nothing")
        return found


class Refusal(_RuleRefusal):
    """A call of CheriBSD's was refused, and nothing was changed. errno: that of the rule, where it has only one."""

    def __init__(self, rule: str, *, asked: str, allowed: str, needed: str, errno: str | None = None) -> None:
        super().__init__(rule, asked=asked, allowed=allowed, needed=needed)
        self.errno = ERRNO[self._named(errno)]


class ZxRefusal(_RuleRefusal):
    """A call of Zircon's was refused; what is changed nonetheless, the rule says.

    status: as errno above. results: a status for each handle that was to be sent.
    """

    def __init__(self, rule: str, *, asked: str, allowed: str, needed: str, status: str | None = None) -> None:
        super().__init__(rule, asked=asked, allowed=allowed, needed=needed)
        self.status = STATUS[self._named(status)]
        self.results: tuple[int, ...] = ()


def _read(table: str, prefix: str = "") -> dict[str, Rule]:
    """Read paragraphs that begin with "NAME [ERRNO or STATUS] title" and go on with the text."""
    rules = {}
    for paragraph in table.strip().split("\n\n"):
        head, _, text = paragraph.partition("\n")
        name, _, title = head.partition(" ")
        first, _, rest = title.partition(" ")
        errno, title = (first, rest) if first in ERRNO or first in STATUS else (None, title)
        rules[prefix + name] = Rule(prefix + name, title, " ".join(text.split()), errno)
    return rules


RULES: Final = {
    **_read(rows_mapping.TABLE, "cheribsd:"),
    **_read(rows_sharing.TABLE, "cheribsd:"),
    **_read(rows_revocation.TABLE, "cheribsd:"),
    **_read(rows_sharing.OTHERS),
    **_read(rows_vmar.TABLE, "vmar:"),
}
"""Every rule by its full name, in the order of the tables."""
