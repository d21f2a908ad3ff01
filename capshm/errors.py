"""What can go wrong, grouped by what the caller can do about it.

A `Fault` is what the emulated hardware raises:
the program has a bug, or an experiment has shown what it set out to show. The rest is about the machine itself.

All of them pickle; a capability that travels in one arrives untagged, as every capability that leaves its process does.
"""

from __future__ import annotations

from errno import errorcode

from capshm.model.constants import EPROT
from capshm.model.zircon_constants import STATUS_NAMES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from capshm.capability import Capability


class CapshmError(Exception):
    """Base of all errors of capshm."""

    def __reduce__(self) -> str | tuple[object, ...]:
        return _rebuild, (type(self), self.args, self.__dict__.copy())


def _rebuild(kind: type[CapshmError], args: tuple[object, ...], fields: dict[str, object]) -> CapshmError:
    """Make an error from its parts again; constructors with keyword-only arguments are what pickle cannot call."""
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class Refused(CapshmError, OSError):
    """A call was refused by a rule; nothing was changed.

    errno: what CheriBSD would have set. rule: the rule's full name ("cheribsd:E2"; "host" where this machine's kernel
    refused), the word that `capshm explain` and the audit have for it. The message says what was
    asked, what is allowed, and what would be needed.
    """

    def __init__(self, message: str, *, errno: int, rule: str) -> None:
        super().__init__(errno, message)
        self.rule = rule

    def __str__(self) -> str:
        return f"{self.strerror} ({_errno_name(self.errno)}, {self.rule})"

    def __reduce__(self) -> str | tuple[object, ...]:
        fields = self.__dict__.copy()
        return _rebuild_refused, (type(self), self.strerror, self.errno, fields.pop("rule"), fields)


def _rebuild_refused(kind: type[Refused], message: str, errno: int, rule: str, fields: dict[str, object]) -> Refused:
    error = kind(message, errno=errno, rule=rule)
    error.__dict__.update(fields)
    return error


class ZxError(CapshmError):
    """A call of `capshm.zircon` was refused.

    status: Zircon's, a negative number. rule: the check that refused, by its full name ("vmar:1.3/8d"; "vmar:host"
    where this machine's kernel refused), as `capshm explain`, the audit and the specification have it. results: of
    channel_write_etc, a status for each entry. What is changed nonetheless, the rule says.
    """

    def __init__(self, message: str, *, status: int, rule: str, results: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.rule = rule
        self.results = list(results)

    def __str__(self) -> str:
        return f"{self.args[0]} ({STATUS_NAMES.get(self.status, self.status)}, {self.rule})"


def _errno_name(number: int | None) -> str:
    return "EPROT" if number == EPROT else errorcode.get(number or 0, str(number))


class Fault(CapshmError):
    """An emulated hardware fault (ISAv9 and CheriBSD's signal codes).

    signal, code: names of the signal and its code as CheriBSD delivers them. address: where the access stopped; in a
    bulk form all elements before it are done. capability: the authority that was used.
    """

    signal: str = "SIGPROT"

    def __init__(self, message: str, *, code: str, address: int, capability: Capability | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.address = address
        self.capability = capability


class TagViolation(Fault):
    """The authority has no tag: it was overwritten, revoked, or never was a capability."""


class SealViolation(Fault):
    """The authority is sealed: it can be passed on, not used."""


class PermissionViolation(Fault):
    """The authority lacks the permission for the access, or for storing such a value."""


class BoundsViolation(Fault):
    """The access is not inside the authority's bounds."""


class AlignmentViolation(Fault):
    """A capability was to be loaded from, or stored to, an address that is not a multiple of 16."""


class StoreTagViolation(Fault):
    """A tagged value was to be stored to a page without store-capability permission."""

    signal = "SIGSEGV"


class PageViolation(Fault):
    """The page is not mapped, does not permit the access, or lies past the end of its object (then with SIGBUS)."""

    def __init__(
        self, message: str, *, code: str, address: int, signal: str = "SIGSEGV", capability: Capability | None = None
    ) -> None:
        super().__init__(message, code=code, address=address, capability=capability)
        self.signal = signal


class NotAttached(CapshmError):
    """The calling process has no part in any machine: it was forked by code that ran no hooks."""


class HolderStopped(CapshmError):
    """A living process holds the lock of a tag line and has kept it for the whole lock timeout. Nothing was changed.

    pid: of the holder; it goes on, or is ended, with SIGCONT or SIGKILL.
    """

    def __init__(self, message: str, *, pid: int) -> None:
        super().__init__(message)
        self.pid = pid


class RevocationIncomplete(CapshmError):
    """Not everyone could be stopped in time: everybody goes on, and the epoch stays open.

    Nothing may be taken for revoked, and nothing has left quarantine; what has lost its tag stays so. The next call
    that closes the epoch finishes it. processes: (pid, reason) for each process that was still inside an operation.
    """

    def __init__(self, message: str, *, processes: Sequence[tuple[int, str]]) -> None:
        super().__init__(message)
        self.processes = list(processes)


class BrokerGone(CapshmError):
    """The broker of this process's machine has ended, or has closed the connection: no call that needs it can be made.

    Nothing gains rights by that; memory that is mapped stays usable as it was. Unless it ended in the middle of a
    revocation: then every capability operation ends like this.
    """


class LayoutMismatch(CapshmError):
    """This process and its machine were built from different sources: they would not agree about shared memory."""


class LeakFound(CapshmError):
    """What a program left behind in a machine that was made with leaks="raise".

    leaks: a line for each thing that is left.
    """

    def __init__(self, message: str, *, leaks: Sequence[str]) -> None:
        super().__init__(message)
        self.leaks = list(leaks)
