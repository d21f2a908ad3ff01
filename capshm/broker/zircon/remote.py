"""Calls on other processes' VMARs: decided here, carried out by the process whose mappings they change.

A call on a VMAR that is not the caller's own waits until its target, the process that the VMAR belongs to, comes by:

    waiting    The broker signals the target (SIGURG), again and again, since a thread amid an operation cannot come.
               Only checked so far: what the rules refuse is refused at once. Nothing is decided, so there is nothing to
               take back when the call's time is over, its caller ends, or the target changes its mappings meanwhile.
    given      The target has come: it has asked (`RemoteNext`), or it has a request of its own waiting here, and so
               reads its connection. The call is decided on the tree as it is now, committed, and its orders go out.
               Until the target reports (`RemoteDone`), no other call on it is decided, and no request of its own.
    done       Reported. What Linux refused is taken back in the tree, from there on; only now the caller is answered.

Invariants: a target has one call given at most, so there is one order of changes in tree and kernel; orders and answers
come to it over one connection, in that order; a caller is answered after the target's kernel has changed. There is no
circle of waits: who waits for an answer carries out what comes first, so of two processes that call on one another each
does the other's; three in a ring as well.

What a death leaves:

    target, waiting   BAD_STATE, by the row that says so; nothing was changed.
    target, given     The same: with the process its half-done range is gone.
    caller, waiting   The call is dropped.
    caller, given     The target carries it out; tree and kernel agree, nobody is answered.
    broker            The target's handler finds its connection closed and ends, between two orders or after them;
                      callers get BrokerGone. No tree is left to differ from.

What a stop leaves (SIGSTOP, a debugger), after stop_timeout:

    target, waiting   UNAVAILABLE, vmar:REMOTE/1: nothing was changed, and nothing will be.
    target, given     UNAVAILABLE, vmar:REMOTE/2: the range is in progress; the target finishes it when it goes on, or
                      it dies with it. Until then further calls on that process wait, and are answered the same.
    caller            The call goes its way; the answer waits for it.

Why the target asks, instead of finding orders in memory that both share: then claiming, withdrawing and the order
beside the target's own requests would need a protocol of their own. Here a call is withdrawn by forgetting it. A round
trip more is the price.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from capshm.broker import messages
from capshm.broker.connections import Connection, Packet
from capshm.broker.exchange import Exchange
from capshm.broker.loop import Loop
from capshm.broker.processes import Process, Processes
from capshm.broker.service import Service
from capshm.broker.state import Member, Reply
from capshm.broker.zircon import messages as zircon_messages
from capshm.broker.zircon import remote_orders
from capshm.model.rules import ZxRefusal

_FIRST_PAUSE = 0.001  # seconds between two signals; doubled each time
_LONGEST_PAUSE = 0.064


@dataclass(slots=True, eq=False)
class Call:
    """A call on another's VMAR. orders, body: once it is given. is_answered: its caller waits no more."""

    caller: Process
    member: Member
    connection: Connection
    request: messages.Request
    deadline: float
    pause: float = _FIRST_PAUSE
    orders: list[remote_orders.Order] = field(default_factory=list)
    body: messages.Answer = field(default_factory=dict)
    is_answered: bool = False


@dataclass(slots=True, eq=False)
class Target:
    """A process whose mappings others want to change. postponed: its own requests since a call was given."""

    serial: int
    waiting: deque[Call] = field(default_factory=deque)
    given: Call | None = None
    number: int = 0
    postponed: list[tuple[Connection, messages.Request, Packet]] = field(default_factory=list)

    def calls(self) -> list[Call]:
        """All of them."""
        return [*([self.given] if self.given is not None else []), *self.waiting]


class Remote:
    """All of one machine's. patience: seconds that a call waits for its target; answer: takes a postponed request.

    is_waiting: whether the process with this address space waits for another answer that takes its time.
    """

    def __init__(
        self,
        service: Service,
        exchange: Exchange,
        processes: Processes,
        loop: Loop,
        patience: float,
        answer: Callable[[Connection, messages.Request, Packet], Reply | None],
        is_waiting: Callable[[int], bool],
    ) -> None:
        self._service = service
        self._exchange = exchange
        self._processes = processes
        self._loop = loop
        self._patience = patience
        self._answer = answer
        self._is_waiting = is_waiting
        self._targets: dict[int, Target] = {}

    # The caller

    def call(self, caller: Process, member: Member, request: messages.Request, serial: int) -> None:
        """Begin a call on a VMAR of that address space; the answer follows."""
        assert caller.connection is not None
        target = self._targets.setdefault(serial, Target(serial))
        call = Call(caller, member, caller.connection, request, time.monotonic() + self._patience)
        target.waiting.append(call)
        self.stays(member.serial)
        if self._is_here(target):
            self._give(target)
        self._remind(target, call)

    def stays(self, serial: int) -> None:
        """The process with this address space waits here from now on, and does what others want of it."""
        own = self._targets.get(serial)
        if own is not None:
            self._give(own)

    def _remind(self, target: Target, call: Call) -> None:
        """Signal the target once more, or tell the caller that its patience is over."""
        is_waiting = call in target.waiting
        if call.is_answered or not (is_waiting or call is target.given):
            return
        left = call.deadline - time.monotonic()
        if left <= 0:
            self._give_up(target, call)
            return
        process = self._processes.of_vmspace(target.serial)
        if is_waiting and target.given is None and process is not None:
            process.wish()
        self._loop.after(min(call.pause, left), lambda: self._remind(target, call))
        call.pause = min(2 * call.pause, _LONGEST_PAUSE)

    def _give_up(self, target: Target, call: Call) -> None:
        self._reply(call, lambda: self._unavailable(target, call))
        if call in target.waiting:
            target.waiting.remove(call)
            self._forget_if_idle(target)

    def _unavailable(self, target: Target, call: Call) -> Reply:
        process = self._processes.of_vmspace(target.serial)
        who = "a process that is being forked" if process is None else f"process {process.pid}"
        state = "" if process is None else _state(process.pid)
        rule = "vmar:REMOTE/1" if target.given is None else "vmar:REMOTE/2"
        stands = "has not come by" if target.given is None else "has a change in progress and has not reported it"
        refusal = ZxRefusal(
            rule,
            asked=str(call.request.__struct_config__.tag),
            allowed=f"{who} {stands} within {self._patience:g} s{state}",
            needed="that it goes on, or ends",
        )
        return self._service.refuse(call.member, call.request, refusal)

    def _reply(self, call: Call, decide: Callable[[], Reply]) -> None:
        if not call.is_answered:
            call.is_answered = True
            self._exchange.respond(call.connection, call.request.n, decide)

    # The target

    def come(self, process: Process) -> None:
        """A process asks what others want of it; it waits for the answer, whatever that is."""
        target = self._targets.get(process.vmspace)
        if (target is None or not self._give(target)) and process.connection is not None:
            self._exchange.send_orders(process.connection, remote_orders.NOTHING)

    def is_under_way(self, process: Process) -> bool:
        """Whether it has orders that it has not reported."""
        target = self._targets.get(process.vmspace)
        return target is not None and target.given is not None

    def postpone(self, process: Process, connection: Connection, request: messages.Request, packet: Packet) -> None:
        """Answer a request of its own after its report: it has asked before it could read the orders."""
        taken = packet._replace(descriptors=packet.descriptors.copy(), pidfds=packet.pidfds.copy())
        packet.descriptors.clear()
        packet.pidfds.clear()
        self._targets[process.vmspace].postponed.append((connection, request, taken))

    def _is_here(self, target: Target) -> bool:
        """Whether the process waits for an answer, and so reads its connection."""
        return (
            bool(target.postponed)
            or self._is_waiting(target.serial)
            or any(
                call.member.serial == target.serial and not call.is_answered
                for each in self._targets.values()
                for call in each.calls()
            )
        )

    def _give(self, target: Target) -> bool:
        """Decide the oldest call that waits, and the next ones where there is nothing to do. False: none was given."""
        process = self._processes.of_vmspace(target.serial)
        while target.given is None and target.waiting and process is not None and process.connection is not None:
            call = target.waiting.popleft()
            decided = self._decide(target, call)
            if decided is None:
                continue
            target.given = call
            target.number += 1
            orders = remote_orders.packed(target.number, call.orders)
            self._exchange.send_orders(process.connection, orders, decided.descriptors)  # drops a full one: `ended`
            return True
        self._forget_if_idle(target)
        return False

    def _decide(self, target: Target, call: Call) -> Reply | None:
        """None: it is over, without orders."""
        made: list[Reply] = []

        def decide() -> Reply | None:
            reply = self._service.handle_there(call.member, call.request, target.serial)
            call.orders = remote_orders.taken(reply.body)
            if not call.orders:
                return reply
            made.append(reply)
            return None

        self._exchange.respond(call.connection, call.request.n, decide)
        if not made:
            call.is_answered = True
            return None
        call.body = made[0].body
        return made[0]

    def done(self, process: Process, report: zircon_messages.RemoteDone) -> None:
        """A process reports: so many orders are carried out; errno: why not all."""
        target = self._targets.get(process.vmspace)
        if target is None or target.given is None or target.number != report.number or process.member is None:
            return  # nobody's report; who sends such a thing learns nothing
        call, target.given = target.given, None
        if report.done < len(call.orders):
            self._reply(call, self._take_back(call, process.member, process.pid, report))
        else:
            self._reply(call, lambda: Reply(call.body))
        self._go_on(target)

    def _take_back(
        self, call: Call, member: Member, pid: int, report: zircon_messages.RemoteDone
    ) -> Callable[[], Reply]:
        """Take back what Linux has not done, whether anybody waits for the answer or not; returns what makes it."""
        start = remote_orders.start_of(call.orders[report.done])
        try:
            refusal = self._service.failed_there(member, pid, start, report.errno)
        except OSError as error:
            return partial(_raise, error)  # it could not be recorded
        return lambda: self._service.refuse(call.member, call.request, refusal)

    def _go_on(self, target: Target) -> None:
        """After a report: what the process itself has asked meanwhile, then the next call if it waits for an answer."""
        postponed, target.postponed = target.postponed, []
        for each in postponed:
            self._take_up(*each)
        if self._is_here(target):
            self._give(target)
        else:
            self._forget_if_idle(target)

    def _take_up(self, connection: Connection, request: messages.Request, packet: Packet) -> None:
        try:
            self._exchange.respond(connection, request.n, lambda: self._answer(connection, request, packet))
        finally:
            packet.close()

    def _forget_if_idle(self, target: Target) -> None:
        if target.given is None and not target.waiting and not target.postponed:
            self._targets.pop(target.serial, None)

    # Ends

    def ended(self, member: Member) -> None:
        """A process is gone: its calls are dropped, and those on it get the refusal that the tree now has for them."""
        for each in list(self._targets.values()):
            each.waiting = deque(call for call in each.waiting if call.member is not member)
            if each.given is not None and each.given.member is member:
                each.given.is_answered = True
            self._forget_if_idle(each)
        target = self._targets.pop(member.serial, None)
        if target is None:
            return
        for _, _, packet in target.postponed:
            packet.close()
        for call in target.calls():
            self._end_call(call, member.serial)

    def _end_call(self, call: Call, serial: int) -> None:
        self._reply(call, lambda: self._service.handle_there(call.member, call.request, serial))


def _raise(error: OSError) -> Reply:
    raise error


def _state(pid: int) -> str:
    """Why it may be: what Linux says."""
    try:
        letter = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return ""
    return {b"T": ": it is stopped", b"t": ": a debugger has stopped it"}.get(letter, "")
