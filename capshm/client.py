"""This process's connection to the broker of its machine: one request, one answer, and how a fork passes it on.

One thread at a time asks, and keeps the lock until it has carried out what was answered, so that the model and the
kernel change in the same order. Nothing is remembered here about mappings: the broker knows them.

A fork, seen from here: the parent makes a pair of sockets and gives one end to the broker with the request, which plans
the child's address space; the other end is the child's connection. The child's first packet shows the broker its pid,
and the child waits for no answer: whatever it or anybody it wakes asks the broker later comes behind that packet.
If the fork fails, or the child dies first, both ends are closed and the plan is dropped: there is nothing to give back.

After a fork every page that is written is copied, and Python writes wherever it runs, into the counts of references. So
the hooks do as little as they can, and what the child needs is made before.
"""

from __future__ import annotations

import _socket as socket  # as in capshm.connection
import errno
import os
import sys
from collections import namedtuple

from capshm import _status, connection, errors, process
from capshm._native import ffi, layout, lib
from capshm.connection import Connection
from capshm.pages import page_permissions
from capshm.process import request_lock

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import NamedTuple, TypeVar

    from capshm.connection import Answer, Argument

    T = TypeVar("T")

    class Facts(NamedTuple):
        """What a process knows about itself in its machine."""

        machine: str
        pid: int
        vmspace: int
        policy: str
        isa: str

else:
    Facts = namedtuple("Facts", "machine pid vmspace policy isa", module=__name__)
    Facts.__doc__ = "What a process knows about itself in its machine."


class Client:
    """What one process has to do with its machine; made by `attach` and by forks."""

    def __init__(self, link: Connection, machine: str) -> None:
        self._connection: Connection | None = link  # None: the child of a fork that could not be completed
        self._machine = machine
        self._pid = os.getpid()
        self._vmspace = 0
        self._policy = self._isa = ""
        self._faults = "raise"
        self._child: Connection | None = None  # between the hooks of a fork
        self._plan: Answer | None = None
        self._is_plan_stale = False  # memory was changed between the hooks, by a signal handler or another's hook
        self._stages: list[tuple[int, int, int]] = []  # stage, start, end
        self._is_hardened = False  # and was not, before it came to the machine
        self.has_shadow = False  # that the broker can read: something may be painted
        self.has_heap = False  # with the quarantine that this process is to have

    @property
    def facts(self) -> Facts:
        """This process's own view."""
        return Facts(self._machine, self._pid, self._vmspace, self._policy, self._isa)

    def undisturbed(self, body: Callable[[], T]) -> T:
        """Return what `body` returns, which asks and carries the answer out, with no signal handler and no request of
        another thread in between. NotAttached.
        """
        attached = self._attached()
        if request_lock._is_owned() and lib.capshm_fork_depth():  # type: ignore[attr-defined]
            self._is_plan_stale = True
        return attached.undisturbed(body)

    def ask(self, do: str, *, descriptors: Sequence[int] = (), **arguments: Argument) -> Answer:
        """Send a request and return its answer; what changes memory, within `undisturbed`.

        Refused: by a rule. BrokerGone. NotAttached: in a child that came without hooks, or is unattached. Nothing is
        changed after one of them.
        """
        attached = self._attached()
        if refused := lib.capshm_take_refused_loads():
            attached.ask("refused_loads", count=refused)  # so that it is in the audit before whatever follows from it
        return attached.ask(do, descriptors=descriptors, **arguments)

    def _attached(self) -> Connection:
        if self._connection is None or (self._connection.is_open and not lib.capshm_is_attached()):
            raise errors.NotAttached(
                f"process {os.getpid()} has no part in machine {self._machine!r}: it was forked without the hooks, or "
                "its fork could not be completed"
            )
        return self._connection

    def welcome(self) -> None:
        """Ask for a part in the machine and attach the core to its gate."""
        assert self._connection is not None
        name = sys.argv[0] if sys.argv else ""
        answer = self._connection.ask("attach", name=connection.shown(name), layout=layout())
        try:
            self._vmspace = answer.number("vmspace")
            self._policy, self._isa, self._faults = answer.text("policy"), answer.text("isa"), answer.text("faults")
            self._is_hardened = bool(answer.body["hardened"]) and lib.capshm_set_dumpable(False)
            process.join(self, answer.number("arena_size"), answer.descriptors[0])
            check(lib.capshm_join_records(answer.descriptors[1], answer.number("record")), "map the records")
            self._connection.keep_from_children()
            lib.capshm_set_isa(self._isa == "rvy")
            if answer.text("stopper") == "signal":
                check(lib.capshm_take_halt_signals(True), "handle SIGWINCH")
        finally:
            answer.close()

    def give_up_memory(self) -> None:
        """Give up all mappings, tags and the place at the gate."""
        lib.capshm_set_isa(False)  # the default again
        process.leave()

    def tell_left(self) -> None:
        """Tell the broker that nothing of the machine is mapped any more."""
        if self._connection is not None:
            try:
                self._connection.ask("leave")
            except errors.CapshmError:
                pass  # nobody is there to be told

    def close(self) -> None:
        """Give up the connection, when nothing of the machine is mapped any more."""
        self._drop_plan()
        if self._connection is not None:
            self._connection.close()
        if self._is_hardened and self._pid == os.getpid():
            lib.capshm_set_dumpable(True)

    # Fork; see process.py for the order

    def before_fork(self) -> bool:
        """Have the child planned and its connection made. The lock is held, until the fork is over."""
        if self._pid != os.getpid() or self._connection is None or not lib.capshm_is_attached():
            return False
        try:
            self._drop_plan()  # of the last fork, if a signal handler has cut the hook short
            lib.capshm_fork_block_signals()
            if not request_lock._is_owned():  # type: ignore[attr-defined]
                raise errors.CapshmError("a signal handler has raised while the fork waited for its turn")
            self._is_plan_stale = False
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._child = Connection(ours)
            try:
                self._plan = self.ask("fork", descriptors=[theirs.fileno()])
            finally:
                theirs.close()
            lib.capshm_plan_child(self._plan.number("record"), *(self._plan.descriptors or (-1, -1)))
            if self._plan.body["is_changed"]:
                self._stage(self._plan)
        except BaseException as error:
            # A fork cannot be refused from here. The child will be unattached, and be told so by every call.
            self._drop_plan()
            reason = str(error) or type(error).__name__
            print(f"capshm: process {os.getpid()}: the child of this fork is not attached: {reason}", file=sys.stderr)
            return False
        return True

    def _stage(self, plan: Answer) -> None:
        for start, end in plan.ranges("copies"):
            stage = ffi.new("uint64_t *")
            check(lib.capshm_stage(start, end - start, stage), "copy memory for a fork")
            self._stages.append((stage[0], start, end))

    def _drop_plan(self) -> None:
        plan, self._plan = self._plan, None
        if plan is not None:
            self._forget_plan(plan)
        if self._child is not None:
            self._child.close()
            self._child = None
        while self._stages:
            lib.capshm_drop_stage(self._stages.pop()[0])

    @staticmethod
    def _forget_plan(plan: Answer) -> None:
        lib.capshm_plan_child(0, -1, -1)
        plan.close()

    def after_fork_in_parent(self) -> None:
        """Drop what was for the child."""
        if self._pid != os.getpid():
            return
        self._drop_plan()

    def after_fork_in_child(self, *, is_attached: bool) -> None:
        """Become a process of the machine in one's own name."""
        if self._connection is not None:
            self._connection.forget()  # the parent's; the broker would not listen to this process on it
        plan, self._plan = self._plan, None
        self._connection, self._child = self._child, None
        self._pid = os.getpid()
        if plan is None:
            return  # the parent was told so, or was unattached itself; every call tells this process
        try:
            if self._connection is None or not is_attached:
                raise errors.NotAttached(f"process {os.getpid()}, forked by {os.getppid()}, is not attached")
            if self._is_plan_stale:
                raise errors.NotAttached(
                    f"process {os.getpid()} is not attached: a signal handler or fork hook changed the memory of "
                    f"process {os.getppid()} after the fork had been planned"
                )
            self._vmspace = plan.number("vmspace")
            self._connection.keep_from_children()
            self._connection.begin(is_answer_awaited=not plan.body["is_known_by_packet"])
            if plan.body["is_changed"]:
                self._change_inherited(plan)
            if self._faults == "signal":
                from capshm import _uncaught  # only here: most machines do without

                _uncaught.end_by_signal()
        except BaseException:
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            if is_attached:
                lib.capshm_detach()
            raise
        finally:
            while self._stages:
                lib.capshm_drop_stage(self._stages.pop()[0])

    def _change_inherited(self, plan: Answer) -> None:
        """What the kernel has not done by itself: ranges that are absent, zero, or copies in the child."""
        for start, end in plan.ranges("none"):
            check(lib.capshm_unmap_range(start, end - start), "leave out memory after a fork")
        for row in plan.rows("drops"):
            start, end = int(str(row[0])), int(str(row[1]))
            check(lib.capshm_protect(start, end - start, page_permissions(str(row[2]))), "take capability permission")
            check(lib.capshm_lose_tags(start, end - start), "take tags")
        for row in plan.rows("zero"):
            start, end, letters = int(str(row[0])), int(str(row[1])), str(row[2])
            map_object(start, end - start, letters=letters)
        permissions = {(int(str(row[0])), int(str(row[1]))): str(row[2]) for row in plan.rows("copies")}
        for stage, start, end in self._stages:
            check(lib.capshm_adopt(stage, start, page_permissions(permissions[start, end])), "adopt copied memory")


_current: Client | None = None


def current() -> Client:
    """The connection of this process. NotAttached: it is in no machine."""
    if _current is None:
        raise errors.NotAttached(
            f"process {os.getpid()} is in no machine: use `with capshm.Machine(...)`, or capshm.attach() in a program "
            "that a machine has started"
        )
    return _current


def members() -> set[int]:
    """The processes that have a place at the gate, as the memory that they share with this one says."""
    capacity = 64
    while True:
        pids = ffi.new("int32_t[]", capacity)
        count = lib.capshm_gate_processes(pids, capacity)
        if count <= capacity:
            return set(pids[0:count])
        capacity = 2 * count


def is_attached() -> bool:
    """Whether this process is in a machine, or was when it was forked."""
    return _current is not None


def attach(machine: str | None = None) -> Client:
    """Attach this process to the machine of this name, or the one that has started its program.

    In a process that is attached to it already nothing happens. CapshmError: there is no such machine, or the process
    is in another; LayoutMismatch: it runs another core.
    """
    global _current
    name = machine or os.environ.get(connection.MACHINE_VARIABLE)
    if not name:
        raise errors.CapshmError(
            f"which machine? {connection.MACHINE_VARIABLE} is not set: use machine.spawn(...) to start a program"
        )
    if _current is not None:
        if _current.facts.machine == name:
            return _current
        raise errors.CapshmError(f"process {os.getpid()} is in machine {_current.facts.machine!r} already")
    client = Client(Connection(connection.connect(name)), name)
    try:
        client.welcome()
    except BaseException:
        client.close()
        raise
    _current = client
    return client


def detach() -> None:
    """Give up this process's part in its machine: all mappings, tags and the connection. Nothing, if it has none."""
    global _current
    client, _current = _current, None
    if client is None:
        return
    client.give_up_memory()
    client.close()


def leave() -> None:
    """The same, and the broker is told when nothing is mapped any more: it takes the process off its list."""
    client = _current
    if client is None:
        return
    try:
        was_attached = bool(lib.capshm_is_attached())
        client.give_up_memory()
        if was_attached:
            client.tell_left()
    finally:
        detach()


def check(status: int, what: str) -> None:
    """Raise what a status of the core stands for."""
    if status == lib.STATUS_NO_MEMORY:
        number = ffi.errno or errno.ENOMEM
        raise errors.Refused(f"{what}: {os.strerror(number)}", errno=number, rule="host")
    if status:
        _status.fail(status, what)


def map_object(
    address: int,
    length: int,
    *,
    letters: str,
    data: int = -1,
    tags: int = -1,
    clear: int = -1,
    offset: int = 0,
    number: int = 0,
    is_shared: bool = False,
    is_tags_writable: bool = False,
    is_clear_writable: bool = False,
    is_kept_at_fork: bool = True,
    filled: tuple[int, int] | None = None,
) -> None:
    """Carry out a mapping that the broker has decided; without `data` it is private anonymous memory.

    filled: what is private memory there moves into the object, by these descriptors of data and tags.
    """
    mapping = ffi.new("struct capshm_object_mapping *")
    mapping.address, mapping.length, mapping.offset = address, length, offset
    mapping.data, mapping.tags, mapping.clear = data, tags, clear
    mapping.object, mapping.permissions = number, page_permissions(letters)
    mapping.is_shared, mapping.is_kept_at_fork = is_shared, is_kept_at_fork
    mapping.is_tags_writable, mapping.is_clear_writable = is_tags_writable, is_clear_writable
    if filled is not None:
        check(lib.capshm_move_into_object(mapping, *filled), f"move {length} bytes into an object")
    else:
        check(lib.capshm_map_object(mapping), f"map {length} bytes")
