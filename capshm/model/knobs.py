"""Switches of a program, a process and the machine: for sharing capabilities (row K1), and for revocation (2.7)."""

from __future__ import annotations

from typing import Final, NamedTuple

from capshm.model.constants import PROC_SHARECAP_DEFAULT, PROC_SHARECAP_DISABLE, PROC_SHARECAP_ENABLE
from capshm.model.rules import Refusal

_ANSWERS: Final = {PROC_SHARECAP_DEFAULT: None, PROC_SHARECAP_ENABLE: True, PROC_SHARECAP_DISABLE: False}


class Knobs(NamedTuple):
    """What was said about one process.

    process: by procctl, 0 (nothing), 1 (enable) or 2 (disable). program: by the note in its file, None for nothing.
    machine: the default of all.
    """

    process: int = PROC_SHARECAP_DEFAULT
    program: bool | None = None
    machine: bool = True

    def is_enabled(self) -> bool:
        """Process before program before machine."""
        for answer in (_ANSWERS[self.process], self.program):
            if answer is not None:
                return answer
        return self.machine

    def may_share(self) -> bool:
        """Whether capabilities may cross to other address spaces, for knobs that are about that."""
        return self.is_enabled()

    def decided_by(self) -> str:
        """Which of the three said so."""
        if self.process != PROC_SHARECAP_DEFAULT:
            return "procctl"
        return "the program's note" if self.program is not None else "the machine's default"

    def with_process(self, value: int) -> Knobs:
        """After procctl with this value; refused for one that is none of the three."""
        if value not in _ANSWERS:
            raise Refusal(
                "cheribsd:MAN",
                asked=f"procctl with the value {value}",
                allowed="the value is none of the three that are known",
                needed="0 (the default), 1 (enable) or 2 (disable)",
            )
        return self._replace(process=value)

    def check(self, asked: str, *, rule: str = "cheribsd:K1") -> None:
        """Refuse, by K1 or K3, what would let capabilities cross to another address space."""
        if not self.may_share():
            raise Refusal(
                rule,
                asked=asked,
                allowed=f"{self.decided_by()} forbids sharing capabilities with other address spaces",
                needed="PROT_NO_CAP for data alone, or a process whose sharing is enabled",
            )
