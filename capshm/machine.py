"""The machine: a broker and the processes that are emulated.

    with capshm.Machine(policy="cheribsd") as machine:
        ...                               # this process is the first emulated one; children of os.fork are attached

Entering starts the broker, a real process, and attaches the caller. Leaving ends every emulated process that is still
alive, then the broker, and with it every segment; in any process but the one that entered it, it only detaches that
process.
If the entering process dies, the broker does the same by itself.
"""

from __future__ import annotations

import operator
import os
import re
import sys
from collections.abc import Callable
from collections.abc import Mapping as Environment
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ParamSpec, Self, SupportsIndex, TypeVar, cast

from capshm import _launch, client, errors, policies, records, revokers
from capshm.model.constants import ARENA_SIZE

if TYPE_CHECKING:
    import subprocess

    from capshm.cheribsd.revoke import RevokeResult
    from capshm.connection import Ask

_P = ParamSpec("_P")
_T = TypeVar("_T")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_ARENA_UNIT = 64 * 4096
_CHOICES = {
    "stopper": ("gate", "signal", "sigstop"),
    "scope": ("vmspace", "machine"),
    "isa": ("v9", "rvy"),
    "vmar_errors": ("kernel", "rfc"),
    "faults": ("raise", "signal"),
    "leaks": ("ignore", "raise"),
}

_entered: Machine | None = None


def choices(argument: str) -> list[str]:
    """The names that an argument of `Machine` takes in this version. KeyError: its values are no names."""
    installed = {"policy": policies.names, "revoker": revokers.names}
    if argument in installed:
        return installed[argument]()
    return list(_CHOICES[argument])


class Machine:
    """A machine of emulated processes; a context manager.

    policy: "open", "cheribsd", "isolated", or the name of a plug-in (entry point group "capshm.policies"). revoker:
    "none", "stop-the-world", or the name of a plug-in (group "capshm.revokers"). stopper: how a revocation stops
    processes: "gate" interrupts nobody; "signal" and "sigstop" do, to compare: on top of the gate, by SIGWINCH (which
    processes should leave to capshm then: one that handles or blocks it is stopped by the gate alone), by SIGSTOP.
    scope: "vmspace": as in CheriBSD, a revocation reaches what belongs to the address space, and neither O_SHARECAP,
    anonymous shared and System V objects nor the copies that others have loaded from them; "machine": it reaches them,
    by whose each capability is. isa: "v9" (a tagged store without StoreCap faults) or "rvy" (it strips). vmar_errors:
    "kernel" or "rfc": the statuses of capshm.zircon where Zircon's kernel and its RFC differ. arena_size: bytes of
    address space that each process reserves, a multiple of 256 KiB; the first machine of a process decides.
    stop_timeout: seconds that a revocation waits for processes. faults: "raise", or "signal": an uncaught fault ends a
    forked process by the real signal. leaks: "raise": leaving raises LeakFound. hardened: other processes of the same
    user, root's excepted, cannot look into broker and clients (/proc/PID/mem and fd, ptrace, pidfd_getfd). Off then,
    for that user: reading mappings back from /proc/PID/smaps, work on stopped processes, debuggers, core files; and if
    the broker is killed, finding processes that were forked without hooks. audit: path of a file to be made; None
    keeps the audit in memory. name: of the machine, as `capshm.attach` takes it.

    ValueError and TypeError: an argument is wrong. CapshmError: this process is in a machine already, the name is in
    use, or the broker could not start. Nothing is left then.
    """

    def __init__(
        self,
        policy: str = "cheribsd",
        revoker: str = "stop-the-world",
        *,
        stopper: str = "gate",
        scope: str = "vmspace",
        isa: str = "v9",
        vmar_errors: str = "kernel",
        arena_size: SupportsIndex = ARENA_SIZE,
        stop_timeout: float = 1.0,
        faults: str = "raise",
        leaks: str = "ignore",
        hardened: bool = False,
        audit: str | os.PathLike[str] | None = None,
        name: str | None = None,
    ) -> None:
        chosen = {"stopper": stopper, "scope": scope, "isa": isa, "vmar_errors": vmar_errors}
        chosen |= {"faults": faults, "leaks": leaks}
        for argument, value in chosen.items():
            if value not in _CHOICES[argument]:
                raise ValueError(f"{argument} must be one of {', '.join(_CHOICES[argument])}, not {value!r}")
        if not all(isinstance(each, str) for each in (policy, revoker)):
            raise TypeError("policy and revoker are names")
        if policy not in policies.names():
            raise ValueError(f"policy must be one of {', '.join(policies.names())}, not {policy!r}")
        if revoker not in revokers.names():
            raise ValueError(f"revoker must be one of {', '.join(revokers.names())}, not {revoker!r}")
        size = operator.index(arena_size)
        if not _ARENA_UNIT <= size <= 1 << 42 or size % _ARENA_UNIT:
            raise ValueError(f"arena_size is a multiple of {_ARENA_UNIT}, at most 4 TiB, not {size}")
        if isinstance(stop_timeout, bool) or not 0 <= float(stop_timeout) <= 1e6:
            raise ValueError(f"stop_timeout must be 0 to 1,000,000 seconds, not {stop_timeout}")
        if not isinstance(hardened, bool):
            raise TypeError("hardened is True or False")
        if name is not None and not _NAME.fullmatch(name):
            raise ValueError(f"a machine's name has 1 to 64 letters, digits, '.', '_' or '-', not {name!r}")
        self._settings: dict[str, str | int | float | bool | None] = {
            **chosen,
            "policy": policy,
            "revoker": revoker,
            "arena_size": size,
            "stop_timeout": float(stop_timeout),
            "hardened": hardened,
            "name": name or f"{os.getpid()}-{os.urandom(4).hex()}",
        }
        self._audit = None if audit is None else os.fspath(Path(audit).absolute())
        self._leaks = leaks
        self._creator = 0  # the pid that has entered
        self._broker: subprocess.Popen[bytes] | None = None

    def __repr__(self) -> str:
        broker = "not entered" if self._broker is None else f"broker {self._broker.pid}"
        return f"<Machine {self.name!r}: {self._settings['policy']}, {self._settings['revoker']}, {broker}>"

    @property
    def name(self) -> str:
        """What `capshm.attach` and other terminals call it."""
        return str(self._settings["name"])

    @property
    def broker_pid(self) -> int:
        """Of the broker's process. CapshmError before entering."""
        if self._broker is None:
            raise errors.CapshmError(f"machine {self.name!r} has not been entered")
        return self._broker.pid

    def __enter__(self) -> Self:
        global _entered
        if self._broker is not None:
            raise errors.CapshmError(f"machine {self.name!r} was entered before; make another")
        if client.is_attached():
            raise errors.CapshmError(
                f"process {os.getpid()} is in machine {client.current().facts.machine!r} already: one at a time"
            )
        self._broker = _launch.start_broker(self._settings, self._audit)
        try:
            client.attach(self.name)
        except BaseException:
            self._broker.kill()
            self._broker.wait()
            raise
        self._creator = os.getpid()
        _entered = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        global _entered
        if _entered is not self:
            return
        _entered = None
        if os.getpid() != self._creator:
            client.leave()
            return
        assert self._broker is not None
        leaks = self._find_leaks() if self._leaks == "raise" and kind is None else []
        try:
            if client.current().ask("end").numbers("alive"):
                _launch.end_survivors(self.name, client.members, spared=self._broker.pid)
        except errors.CapshmError:  # the broker is gone: what it would have done
            _launch.end_survivors(self.name, client.members)
        finally:
            client.detach()
            if not _launch.await_end(self._broker):
                _launch.end_survivors(self.name)
        if leaks:
            raise errors.LeakFound(f"machine {self.name!r}: left behind: {'; '.join(leaks)}", leaks=leaks)

    def _find_leaks(self) -> list[str]:
        try:
            others = [each for each in self.processes() if each.pid != self._creator]
            left = self.objects()
        except errors.BrokerGone:
            return []
        return [f"process {each.pid} is still alive" for each in others] + [
            f"object {each.id} ({each.kind}{'' if each.name is None else ' ' + each.name}) still exists"
            for each in left
        ]

    # Other programs

    def spawn(
        self, argv: list[str] | tuple[str, ...], *, env: Environment[str, str] | None = None, **popen_arguments: object
    ) -> subprocess.Popen[bytes]:
        """Start a program that can attach to this machine by `capshm.attach()`; arguments as of subprocess.Popen."""
        import subprocess  # only here: attaching must stay cheap

        environment = dict(os.environ if env is None else env) | {"CAPSHM_MACHINE": self.name}
        return subprocess.Popen(argv, env=environment, **popen_arguments)  # type: ignore[call-overload, no-any-return]

    def run(self, function: Callable[_P, _T], /, *args: _P.args, **named: _P.kwargs) -> _T:
        """What `function` returns, or raises, in a fresh emulated process with one thread.

        function, arguments and result travel by cloudpickle, so closures and lambdas will do; capabilities among them
        arrive untagged. CapshmError: the process ended without an answer, or what it has to tell cannot be pickled.
        """
        import cloudpickle  # only here: attaching must stay cheap

        from capshm import _run

        question = os.memfd_create("capshm-question", os.MFD_CLOEXEC)
        answer = os.memfd_create("capshm-answer", os.MFD_CLOEXEC)
        try:
            with os.fdopen(question, "wb", closefd=False) as file:
                _run.write_question(file, cloudpickle.dumps((function, args, named)))
            command = [sys.executable, "-P", "-m", "capshm._run", str(question), str(answer)]
            with self.spawn(command, pass_fds=(question, answer)) as program:
                try:
                    status = program.wait()
                except BaseException:
                    program.kill()
                    raise
            with os.fdopen(answer, "rb", closefd=False) as file:
                file.seek(0)
                text = file.read()
        finally:
            os.close(question)
            os.close(answer)
        if not text:
            raise errors.CapshmError(
                f"the process {program.pid} that ran {function!r} ended with status {status}, without an answer"
            )
        return cast(_T, _run.read_answer(text))

    def revoke(self) -> RevokeResult:
        """Open and close one epoch in every address space of the machine, in one pass.

        Always machine-wide, whatever the scope: afterwards no process can use what an address space had painted of its
        own, in whatever place of the machine it was kept, nor what belongs to one that is gone. Not reached: copies
        that forks had made before; they are the children's own.

        epochs: of this process. Refused, RevocationIncomplete, BrokerGone: as of `cheribsd.cheri_revoke`.
        """
        from capshm.cheribsd.revoke import revoke_machine  # only here: attaching must stay cheap

        self._ask()
        return revoke_machine()

    # What the broker knows

    def processes(self) -> list[records.Process]:
        """All emulated processes."""
        return records.processes(self._ask())

    def objects(self) -> list[records.Object]:
        """All memory objects that still exist, mapped or not. One goes when the kernel has dropped its memory."""
        return records.objects(self._ask())

    def mappings(self, pid: SupportsIndex) -> list[records.Mapping]:
        """The mappings of an emulated process, by address. CapshmError: there is none with that pid."""
        return records.mappings(self._ask(), pid)

    def audit(self) -> list[records.Audit]:
        """Every event so far, in order."""
        return records.audit(self._ask())

    def _ask(self) -> Ask:
        """CapshmError: this process is in another machine."""
        current = client.current()
        if (machine := current.facts.machine) != self.name:
            raise errors.CapshmError(f"process {os.getpid()} is in machine {machine!r}, not in {self.name!r}")
        return current.ask
