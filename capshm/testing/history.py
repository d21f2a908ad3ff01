"""Records what processes do to capabilities while they do it, for `check_history` to judge: `History`.

    with Segment(1 << 16) as segment, History() as history:
        memory = history.grant(segment.root, descriptor=segment.fd)
        if os.fork() == 0:  # plain os.fork: the child records into the same history
            history.store(memory, 0, memory)
            os._exit(0)
        history.load(memory, 0)
        os.wait()
        assert not check_history(history)

What the stamps mean. Both are readings of CLOCK_MONOTONIC, which is one clock for all processes and processors. The
first is taken before the library is entered, the second after it has returned; the calls into the core in between give
up and take back Python's global lock, whose locked instructions keep stores from becoming visible after the second
stamp (x86; elsewhere by the time it takes). An operation that ended before another began did so in reality, too.

What is not recorded did not happen, as far as the checker knows: memory that is watched must be stored to, written and
copied through the history alone. Loads and derivations may go unrecorded; the less is recorded the less is checked, but
see `paint`.
"""

from __future__ import annotations

import json
import operator
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, SupportsIndex

from capshm._native import ffi, lib
from capshm._status import fail
from capshm.capability import Capability
from capshm.errors import CapshmError, HolderStopped, PageViolation
from capshm.shadow import Shadow
from capshm.testing.operations import (
    FORMAT,
    GRANULE,
    Kind,
    Operation,
    Result,
    Value,
    from_json,
    in_order,
    to_json,
)
from capshm.testing.recorder import HistoryFull, Recorder
from capshm.testing.segment import Segment, closed_gate, sweep_registers

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["History", "HistoryFull", "read_history"]

# Bound once: operations are to be recorded without changing their course.
_now = time.monotonic_ns
_new = ffi.new
_inspect = lib.capshm_inspect
_REGISTER = ffi.typeof("struct capability_register *")
_TAG = int(lib.RIGHT_TAG)


class History:
    """A recorder that this process, and all that are forked from it, write into at the same time.

    capacity: how many operations it can hold; blocks of 256 go to each thread that records. Memory is used as it is
    written, 128 bytes an operation. Each method carries an operation out and records it; what it raises is recorded and
    raised. A context manager that closes it in this process; what was recorded can be read until then.
    HistoryFull: nothing was done. NotAttached: this process was forked by code that ran no hooks. A death at any
    instruction leaves everything that other threads and processes record intact, and the operation it interrupted
    "maybe done". No rights are needed, and none are gained.
    """

    def __init__(self, capacity: SupportsIndex = 1 << 20) -> None:
        self._recorder = Recorder(capacity)

    # Operations

    def store(self, authority: Capability, offset: SupportsIndex, value: Capability) -> None:
        """`authority.store_capability(offset, value)`."""
        words = _said(value)
        at = self._begin(Kind.STORE, authority, offset, GRANULE, words)
        try:
            authority.store_capability(offset, value)
        except BaseException as error:
            self._fail(at, error)
            raise
        self._recorder.end(at)

    def load(self, authority: Capability, offset: SupportsIndex = 0) -> Capability:
        """`authority.load_capability(offset)`."""
        at = self._begin(Kind.LOAD, authority, offset, GRANULE)
        try:
            loaded = authority.load_capability(offset)
        except BaseException as error:
            self._fail(at, error)
            raise
        end = _now()
        self._recorder.end(at, stamp=end, value=_said(loaded))
        return loaded

    def write(self, authority: Capability, offset: SupportsIndex, data: Buffer) -> None:
        """`authority.write(offset, data)`."""
        at = self._begin(Kind.WRITE, authority, offset, memoryview(data).nbytes)
        try:
            authority.write(offset, data)
        except BaseException as error:
            self._fail(at, error, is_whole=False)  # of several tag lines some may be cleared
            raise
        self._recorder.end(at)

    def raw_write(self, authority: Capability, offset: SupportsIndex, data: Buffer) -> None:
        """Write past capshm, through `authority.view(...)`, as NumPy or another program would.

        The bytes must differ from those of every capability that lies, or is being stored, there: of a raw write that
        changes nothing or restores what was, nobody can know (README: what it does not model).
        """
        length = memoryview(data).nbytes
        at = self._begin(Kind.RAW_WRITE, authority, offset, length)
        try:
            authority.view(offset, length, writable=True)[:] = data
        except BaseException as error:
            self._fail(at, error)
            raise
        lib.capshm_is_attached()  # for its locked instructions: the bytes are visible before the stamp
        self._recorder.end(at)

    def derive(self, source: Capability, method: Callable[[Capability], Capability]) -> Capability:
        """`method(source)`: `history.derive(c, lambda c: c.with_bounds(64))`."""
        at = self._begin(Kind.DERIVE, source)
        try:
            derived = method(source)
        except BaseException as error:
            self._fail(at, error)
            raise
        end = _now()
        self._recorder.end(at, stamp=end, value=_said(derived))
        return derived

    def grant(self, capability: Capability, *, descriptor: SupportsIndex | None = None) -> Capability:
        """Record that this process was given `capability`, and return it: a root, or what came with a message.

        descriptor: of the memory that is mapped here over the capability's bounds, from its first byte on; two mappings
        with descriptors of one memory are the same granules. Without one the capability is an authority that maps
        nothing, or the memory is common to all processes at its address.
        """
        value = _said(capability)
        number = 0 if descriptor is None else _inode(descriptor)
        at = self._recorder.begin(Kind.GRANT, capability.base, capability.length, object_number=number, value=value)
        self._recorder.end(at)
        return capability

    def share_drop(self, descriptor: SupportsIndex) -> None:
        """Record that this process cannot reach the capabilities of that memory any more, though it maps it.

        As a fork does to memory whose capabilities belong to their owner alone (cheribsd:F2).
        """
        number = _inode(descriptor)
        self._recorder.end(self._recorder.begin(Kind.SHARE_DROP, object_number=number))

    def paint(self, capability: Capability) -> None:
        """`Shadow().paint(capability)`: the next `revoke` takes what has its base there.

        What is derived anew inside it later, from a capability whose base lies elsewhere, is another capability with
        the same bits: record that derivation (`derive`), or it counts as use after revocation.
        """
        _check(capability)
        at = self._recorder.begin(Kind.PAINT, capability.base, capability.length)
        try:
            Shadow().paint(capability)
        except BaseException as error:
            self._fail(at, error)
            raise
        self._recorder.end(at)

    def clear_paint(self, capability: Capability) -> None:
        """`Shadow().clear(capability)`."""
        _check(capability)
        at = self._recorder.begin(Kind.CLEAR_PAINT, capability.base, capability.length)
        try:
            Shadow().clear(capability)
        except BaseException as error:
            self._fail(at, error)
            raise
        self._recorder.end(at)

    def revoke(self, *segments: Segment, timeout: float = 1.0) -> None:
        """Stop the world and sweep these segments and all registers: all memory where capabilities may lie.

        In a machine it is `revoke_by` that revokes.

        A segment that is left out keeps what is painted, and the checker says so.
        """
        for segment in segments:
            if not isinstance(segment, Segment):
                raise TypeError(f"segments are swept, not {type(segment).__name__}")
        at = self._recorder.begin(Kind.REVOKE)
        try:
            with closed_gate(timeout=timeout):
                for segment in segments:
                    segment.sweep()
                sweep_registers()
        except BaseException as error:
            self._fail(at, error)
            raise
        self._recorder.end(at)

    def revoke_by(self, call: Callable[[], object], *, is_of_all: bool = False) -> None:
        """`call()`, which makes a pass of this process's machine, to its end: what it has painted is to go.

        `history.revoke_by(lambda: cheri_revoke(CHERI_REVOKE_LAST_PASS | CHERI_REVOKE_IGNORE_START))`; is_of_all: what
        every process has painted, as `Machine.revoke` does. Painting needs `cheri_revoke_get_shadow` first. Not checked
        is what `Machine(scope="vmspace")` does not promise: leave objects that are shared out of its histories.
        """
        at = self._recorder.begin(Kind.PASS_OF_ALL if is_of_all else Kind.PASS)
        try:
            call()
        except BaseException as error:
            self._fail(at, error)
            raise
        self._recorder.end(at)

    def keep(self, capability: Capability) -> Capability:
        """Promise that nobody will paint its bounds, and return it: what is based there is never to be found untagged.

        That is checked wherever it was stored last, is loaded with the right to load tags, and did not come from a
        process that may have died; and by `look`. Where pages strip tags, say so by `share_drop`.
        """
        _check(capability)
        self._recorder.end(self._recorder.begin(Kind.KEEP, capability.base, capability.length))
        return capability

    def look(self, held: Capability) -> bool:
        """`held.tag`, of what this process has in a variable, or has loaded from where nobody else stores."""
        _check(held)
        at = self._recorder.begin(Kind.LOOK)
        value = _said(held)
        end = _now()
        self._recorder.end(at, stamp=end, value=value)
        return value.tag

    def end(self) -> None:
        """Record that this process ends, of its own will."""
        self._recorder.end(self._recorder.begin(Kind.END))

    # What was recorded

    def operations(self) -> list[Operation]:
        """All that was recorded up to now by any process, ordered by when it began.

        What others are doing meanwhile appears as maybe done. A process that was killed in a record's first part has
        not begun the operation, and there is nothing of it. ValueError after `close`.
        """
        return self._recorder.operations()

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write all as JSON Lines, after a first line that names the format; FileExistsError if the file is there."""
        recorded = self.operations()
        with Path(path).open("x", encoding="ascii") as file:
            file.write(json.dumps({"capshm_history": FORMAT}) + "\n")
            file.writelines(json.dumps(to_json(operation)) + "\n" for operation in recorded)

    def close(self) -> None:
        """Unmap it in this process; it is gone when the last process has closed it or ended."""
        self._recorder.close()

    def __enter__(self) -> History:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # Writing

    def _begin(
        self,
        kind: Kind,
        authority: Capability,
        offset: SupportsIndex = 0,
        length: int = 0,
        value: Value | None = None,
    ) -> int:
        through = _said(authority)
        place = (through.address + operator.index(offset)) % (1 << 64) if length else 0
        return self._recorder.begin(kind, place, length, authority=through, value=value)

    def _fail(self, at: int, error: BaseException, *, is_whole: bool = True) -> None:
        """Record how it ended: only the library's own errors say that nothing was done, and not all of them do."""
        stamp = _now()
        is_cut_short = isinstance(error, PageViolation) and error.signal == "SIGBUS"
        is_cut_short |= isinstance(error, HolderStopped) and not is_whole
        is_refused = isinstance(error, CapshmError | ValueError | TypeError) and not is_cut_short
        result = Result.REFUSED if is_refused else Result.UNKNOWN
        self._recorder.end(at, stamp=stamp, result=result, error=type(error).__name__)


def read_history(path: str | os.PathLike[str]) -> list[Operation]:
    """The operations of a file that `History.export` wrote. ValueError names the line that is not right."""
    with Path(path).open(encoding="ascii") as file:
        operations = []
        for number, line in enumerate(file, start=1):
            try:
                fields = json.loads(line)
                if number > 1:
                    operations.append(from_json(fields))
                elif fields != {"capshm_history": FORMAT}:
                    raise ValueError(f"not a history of format {FORMAT}")
            except ValueError as error:
                raise ValueError(f"{os.fspath(path)}, line {number}: {error}") from error
    return in_order(operations)


def _check(capability: Capability) -> None:
    if not isinstance(capability, Capability):
        raise TypeError(f"a Capability is needed, not {type(capability).__name__}")


def _inode(descriptor: SupportsIndex) -> int:
    """What the memory behind a descriptor is known by. OSError: it is not open; ValueError: it is no number of one."""
    number = operator.index(descriptor)
    if not 0 <= number < 1 << 31:
        raise ValueError(f"a descriptor is a small number, not {number}")
    return os.fstat(number).st_ino


def _said(capability: Capability) -> Value:
    _check(capability)
    held = _new(_REGISTER)
    status = _inspect(capability._register, held)
    if status:
        fail(status, "look at a capability")
    value = held.value
    return Value(value.address, value.metadata, held.rights & _TAG != 0)
