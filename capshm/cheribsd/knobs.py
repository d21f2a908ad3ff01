"""Who may share capabilities at all: of the process, before the program's note, before the machine's default (K1)."""

from __future__ import annotations

import errno

from capshm import client, errors
from capshm.cheribsd._arguments import flag_bits
from capshm.model.constants import PROC_SHARECAP_CTL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex


def procctl(option: SupportsIndex, value: SupportsIndex | None = None) -> int:
    """Set this process's knob and return what it is; None only asks. Children of later forks have it, too.

    option: PROC_SHARECAP_CTL. value: PROC_SHARECAP_DEFAULT, ENABLE or DISABLE. Refused with EINVAL for any other.
    """
    which = flag_bits("option", option)
    setting = None if value is None else flag_bits("value", value)
    if which != PROC_SHARECAP_CTL or setting not in (None, 0, 1, 2):
        raise errors.Refused(
            f"procctl({which:#x}, {setting}): the option that this machine knows is PROC_SHARECAP_CTL, with "
            "PROC_SHARECAP_DEFAULT, PROC_SHARECAP_ENABLE or PROC_SHARECAP_DISABLE",
            errno=errno.EINVAL,
            rule="cheribsd:MAN",
        )
    return client.current().ask("knob", process=setting).number("process")


def program_note(*, share_cap: bool | None = None, revocation: bool | None = None) -> None:
    """Stands for the ELF note of the running program: True, False; None: the program has no note.

    revocation: accepted; nothing revokes yet.
    """
    for name, note in (("share_cap", share_cap), ("revocation", revocation)):
        if note is not None and not isinstance(note, bool):
            raise TypeError(f"{name} is True, False or None")
    client.current().ask("knob", program=-1 if share_cap is None else int(share_cap))
