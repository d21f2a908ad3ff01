"""Who may share capabilities (K1), and who revokes what it frees (2.7).

What is said of the process decides before the program's note, and that before the machine's default.
"""

from __future__ import annotations

import errno

from capshm import client, errors
from capshm.cheribsd._arguments import flag_bits
from capshm.model.constants import PROC_CHERI_REVOKE_CTL, PROC_SHARECAP_CTL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import SupportsIndex


def procctl(option: SupportsIndex, value: SupportsIndex | None = None) -> int:
    """Set this process's knob and return what it is; None only asks. Children of later forks have it, too.

    option: PROC_SHARECAP_CTL or PROC_CHERI_REVOKE_CTL. value: that option's DEFAULT, ENABLE or DISABLE, which are 0, 1
    and 2. Refused with EINVAL for any other.
    """
    which = flag_bits("option", option)
    setting = None if value is None else flag_bits("value", value)
    if which not in (PROC_SHARECAP_CTL, PROC_CHERI_REVOKE_CTL) or setting not in (None, 0, 1, 2):
        raise errors.Refused(
            f"procctl({which:#x}, {setting}): the options that this machine knows are PROC_SHARECAP_CTL and "
            "PROC_CHERI_REVOKE_CTL, with 0 (the default), 1 (enable) or 2 (disable)",
            errno=errno.EINVAL,
            rule="cheribsd:MAN",
        )
    is_for_revocation = which == PROC_CHERI_REVOKE_CTL
    return client.current().ask("knob", process=setting, is_for_revocation=is_for_revocation).number("process")


def program_note(*, share_cap: bool | None = None, revocation: bool | None = None) -> None:
    """Stands for the ELF note of the running program: True, False; None: the program has no note.

    share_cap: whether it may share capabilities. revocation: whether malloc quarantines what it frees.
    """
    for name, note in (("share_cap", share_cap), ("revocation", revocation)):
        if note is not None and not isinstance(note, bool):
            raise TypeError(f"{name} is True, False or None")
    mine = client.current()
    for is_for_revocation, note in ((False, share_cap), (True, revocation)):
        mine.ask("knob", program=-1 if note is None else int(note), is_for_revocation=is_for_revocation)
