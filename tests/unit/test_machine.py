"""A machine from the program's side: entering, forking, sharing, leaving. Bodies run in fresh processes."""

import ctypes
import errno
import functools
import itertools
import os
import pickle
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import capshm
from capshm import _json, client
from capshm import cheribsd as bsd
from capshm._launch import start_broker
from tests.faults.isolation import isolated
from tests.faults.processes import Child, Event, ask_child

MEMORY = 1 << 20
READ_WRITE = bsd.PROT_READ | bsd.PROT_WRITE
CAP = READ_WRITE | bsd.PROT_CAP


def _shared(flags: int = os.O_RDWR, prot: int = CAP) -> tuple[int, capshm.Capability]:
    fd = bsd.shm_open(bsd.SHM_ANON, flags)
    os.ftruncate(fd, MEMORY)
    return fd, bsd.mmap(None, MEMORY, prot, bsd.MAP_SHARED, fd, 0)


def _refusal(call: object, *arguments: object) -> tuple[int | None, str]:
    with pytest.raises(capshm.Refused) as caught:
        call(*arguments)  # type: ignore[operator]
    return caught.value.errno, caught.value.rule


@pytest.mark.slow
@isolated()
def test_what_is_left_behind_can_be_shown() -> None:
    """After its machine was left a capability still has a repr, so that a traceback with local variables works."""
    with capshm.Machine():
        value = bsd.malloc(16)
        assert hex(value.address) in repr(value)
    assert "no machine" in repr(value)
    with pytest.raises(capshm.NotAttached):
        str(value)


@pytest.mark.slow
@isolated()
def test_the_owners_tag_does_not_cross() -> None:
    """The first program of the specification: a child finds no tag in its parent's object, the parent does."""
    with capshm.Machine() as machine:
        _, area = _shared()
        area.store_capability(0, bsd.malloc(64))
        assert ask_child(lambda: area.load_capability(0).tag) is False
        assert area.load_capability(0).tag
        assert machine.name
        assert machine.broker_pid != os.getpid()


@pytest.mark.slow
@isolated()
def test_what_is_made_to_share_crosses_both_ways() -> None:
    """O_SHARECAP, MAP_ANON|MAP_SHARED with PROT_CAP, and private memory: the child has the tags, too."""
    with capshm.Machine():
        _, shared = _shared(os.O_RDWR | bsd.O_SHARECAP)
        anonymous = bsd.mmap(None, 4096, CAP, bsd.MAP_SHARED | bsd.MAP_ANON)
        private = bsd.mmap(None, 4096, READ_WRITE, bsd.MAP_PRIVATE | bsd.MAP_ANON)
        areas = [shared, anonymous, private]
        for area in areas:
            area.store_capability(0, area)

        def look() -> list[bool]:
            tags = [area.load_capability(0).tag for area in areas]
            for area in areas:
                area.store_capability(16, area)
            return tags

        assert ask_child(look) == [True, True, True]
        assert [area.load_capability(16).tag for area in areas] == [True, True, False]


@pytest.mark.slow
@isolated()
def test_refusals_name_their_rules() -> None:
    """A child may not map its parent's object with capability permission; its own it may. Everything is audited."""
    with capshm.Machine() as machine:
        fd, area = _shared()

        def ask() -> list[tuple[int | None, str]]:
            _shared()
            return [
                _refusal(bsd.mmap, None, MEMORY, CAP, bsd.MAP_SHARED, fd, 0),
                _refusal(bsd.mprotect, area, MEMORY, CAP),
                _refusal(bsd.munmap, area.without_tag(), MEMORY),
            ]

        assert ask_child(ask) == [(13, "cheribsd:E2"), (13, "cheribsd:B3"), (1098, "cheribsd:C15")]
        refused = [each for each in machine.audit() if not each.allowed]
        assert [each.rule for each in refused] == ["cheribsd:E2", "cheribsd:B3", "cheribsd:C15"]
        assert all(each.file == __file__ and each.line for each in refused)
        assert [each.number for each in machine.audit()] == list(range(1, len(machine.audit()) + 1))


@pytest.mark.slow
@isolated()
def test_mappings_change_as_asked() -> None:
    """mprotect, munmap and a mapping over another one do what they say, and the model and the kernel agree."""
    with capshm.Machine() as machine:
        area = bsd.mmap(None, 4 * 4096, READ_WRITE, bsd.MAP_PRIVATE | bsd.MAP_ANON)
        area.write(0, b"data")
        bsd.mprotect(area, 4096, bsd.PROT_READ)
        with pytest.raises(capshm.PageViolation):
            area.write(0, b"more")
        bsd.mprotect(area, 4096, READ_WRITE)
        area.write(0, b"more")
        bsd.munmap(area + 4096, 4096)
        with pytest.raises(capshm.PageViolation):
            area.read(4096, 1)
        bsd.mmap(area + 4096, 4096, READ_WRITE, bsd.MAP_PRIVATE | bsd.MAP_ANON | bsd.MAP_FIXED)
        assert area.read(4096, 4) == bytes(4)
        assert sum(each.end - each.start for each in machine.mappings(os.getpid())) == 4 * 4096
        bsd.munmap(area, 4 * 4096)
        assert machine.mappings(os.getpid()) == []


@pytest.mark.slow
@isolated()
def test_padding_is_there_and_cannot_be_touched() -> None:
    """A length that cannot be represented is padded; the padding faults, and goes with the reservation."""
    with capshm.Machine():
        length = (1 << 20) + 4096
        area = bsd.mmap(None, length, READ_WRITE, bsd.MAP_PRIVATE | bsd.MAP_ANON)
        if area.length > length:
            with pytest.raises(capshm.PageViolation) as caught:
                area.read(length, 1)
            assert caught.value.code == "SEGV_ACCERR"
        bsd.munmap(area, length)


@pytest.mark.slow
@isolated()
def test_inheritance() -> None:
    """INHERIT_NONE is absent in a child, INHERIT_ZERO zero, INHERIT_COPY of shared memory its own, with tags."""
    with capshm.Machine():
        kinds = {}
        for inherit in (bsd.INHERIT_NONE, bsd.INHERIT_ZERO, bsd.INHERIT_COPY):
            area = bsd.mmap(None, 4096, CAP, bsd.MAP_SHARED | bsd.MAP_ANON)
            area.store_capability(0, area)
            area.write(16, b"data")
            bsd.minherit(area, 4096, inherit)
            kinds[inherit] = area

        def look() -> object:
            with pytest.raises(capshm.PageViolation):
                kinds[bsd.INHERIT_NONE].read(0, 1)
            zero, copy = kinds[bsd.INHERIT_ZERO], kinds[bsd.INHERIT_COPY]
            found = (zero.read(0, 4096) == bytes(4096), copy.load_capability(0).tag, copy.read(16, 4))
            zero.store_capability(0, zero)
            assert zero.load_capability(0).tag
            copy.write(16, b"mine")
            return found

        assert ask_child(look) == (True, True, b"data")
        assert kinds[bsd.INHERIT_COPY].read(16, 4) == b"data"
        assert ask_child(look) == (True, True, b"data")


@pytest.mark.slow
@isolated()
def test_inherit_share() -> None:
    """Private memory becomes shared with children, contents and tags included, where the policy lets it."""
    with capshm.Machine(policy="open"):
        area = bsd.mmap(None, 3 * 4096, READ_WRITE, bsd.MAP_PRIVATE | bsd.MAP_ANON)
        area.store_capability(4096, area)
        area.write(8192, b"data")
        bsd.minherit(area, 3 * 4096, bsd.INHERIT_SHARE)

        def change() -> object:
            found = area.load_capability(4096).tag, area.read(8192, 4)
            area.write(8192, b"more")
            area.store_capability(0, area)
            return found

        assert ask_child(change) == (True, b"data")
        assert area.read(8192, 4) == b"more"
        assert area.load_capability(0).tag


@pytest.mark.slow
@isolated()
def test_inherit_share_of_what_may_only_be_read() -> None:
    """A file's private pages, also past its end, become shared; the kernel refuses to make them writable for ever."""
    with capshm.Machine():
        fd = bsd.memfd_create("short")
        os.write(fd, b"content")
        area = bsd.mmap(None, 2 * 4096, bsd.PROT_READ | bsd.PROT_NO_CAP, bsd.MAP_PRIVATE, fd)
        bsd.minherit(area, 2 * 4096, bsd.INHERIT_SHARE)
        assert area.read(0, 2 * 4096) == b"content".ljust(2 * 4096, b"\0")
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.mprotect(ctypes.c_void_p(area.base), 4096, 3) == -1
        assert ctypes.get_errno() == errno.EACCES
        with Child(functools.partial(ctypes.memset, area.base, 1, 1)) as child:
            assert child.wait() != 0


def _is_shared_with_a_child(area: capshm.Capability) -> bool:
    ask_child(lambda: area.write(16, b"child"))
    return area.read(16, 5) == b"child"


@pytest.mark.slow
@isolated()
def test_inherit_share_without_a_free_descriptor() -> None:
    """minherit that cannot get its object changes nothing, in the model or in the kernel."""
    with capshm.Machine(policy="open") as machine:
        area = bsd.mmap(None, 4096, READ_WRITE, bsd.MAP_PRIVATE | bsd.MAP_ANON)
        area.store_capability(0, area)
        before = machine.mappings(os.getpid())
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        used = {int(name) for name in os.listdir("/proc/self/fd")}  # noqa: PTH208  # names only
        for limit in itertools.count(min(set(range(len(used) + 1)) - used)):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            try:
                bsd.minherit(area, 4096, bsd.INHERIT_SHARE)
                break
            except capshm.Refused as refused:
                assert refused.errno == errno.EMFILE  # noqa: PT017  # it is allowed in the end
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert machine.mappings(os.getpid()) == before
            assert not _is_shared_with_a_child(area)
        assert _is_shared_with_a_child(area)
        assert area.load_capability(0) == area


@pytest.mark.slow
@isolated()
def test_inherit_share_without_memory() -> None:
    """minherit for which Linux has no memory: what has moved is shared, the rest is as it was, and the model agrees."""
    with capshm.Machine(policy="open") as machine:
        large = 64 << 20
        whole = bsd.mmap(None, 4096 + large, READ_WRITE, bsd.MAP_PRIVATE | bsd.MAP_ANON)
        first, rest = whole.with_bounds(4096), (whole + 4096).with_bounds(large)
        bsd.minherit(whole, 4096, bsd.INHERIT_ZERO)
        rest.store_capability(0, rest)
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + large // 2, hard))
        assert _refusal(bsd.minherit, whole, 4096 + large, bsd.INHERIT_SHARE) == (errno.ENOMEM, "host")
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        assert [each.inherit for each in machine.mappings(os.getpid())] == ["share", "copy"]
        assert _is_shared_with_a_child(first)
        assert not _is_shared_with_a_child(rest)
        rest.store_capability(32, rest)
        bsd.minherit(whole, 4096 + large, bsd.INHERIT_SHARE)
        assert _is_shared_with_a_child(rest)
        assert rest.load_capability(0) == rest.load_capability(32) == rest


@pytest.mark.slow
@isolated()
def test_fork_of_fork_and_of_threads() -> None:
    """Grandchildren, and children of several threads at once, are attached and own what they make."""
    with capshm.Machine() as machine:

        def work() -> int:
            _, area = _shared()
            area.store_capability(0, area)
            assert area.load_capability(0).tag
            return capshm.current().vmspace

        assert ask_child(lambda: ask_child(work)) == 3
        results: list[int] = []

        def fork_some() -> None:
            results.extend(ask_child(work) for _ in range(5))

        threads = [threading.Thread(target=fork_some) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == list(range(4, 24))
        assert [each.pid for each in machine.processes()] == [os.getpid()]


@pytest.mark.slow
@isolated()
def test_leaving_ends_everybody() -> None:
    """When the machine is left its processes are killed, grandchildren included, and the broker has ended."""
    with capshm.Machine() as machine:
        read, write = os.pipe()

        def sleep() -> None:
            os.write(write, b"!")
            threading.Event().wait()

        def fork() -> None:
            with Child(sleep):
                sleep()

        child = Child(fork)
        for _ in range(2):
            os.read(read, 1)
        assert len(machine.processes()) == 3
        pids = [each.pid for each in machine.processes() if each.pid != os.getpid()]
        broker = machine.broker_pid
    assert child.wait() == -9
    os.close(write)
    assert os.read(read, 1) == b""  # nobody has the other end any more
    assert not Path(f"/proc/{broker}").exists()
    assert child.pid in pids
    with capshm.Machine():  # and another one can follow
        assert bsd.malloc(16).tag


@pytest.mark.slow
@isolated()
def test_a_child_that_leaves_only_detaches() -> None:
    """`with` in a child ends for the child alone."""
    with capshm.Machine() as machine:
        _, area = _shared()

        def leave() -> None:
            machine.__exit__(None, None, None)
            with pytest.raises(capshm.NotAttached):
                capshm.current()
            with pytest.raises(capshm.NotAttached):
                bsd.malloc(16)

        with Child(leave) as child:
            assert child.wait() == 0
        area.store_capability(0, area)
        assert [each.pid for each in machine.processes()] == [os.getpid()]


@pytest.mark.slow
@isolated()
def test_run_and_spawn() -> None:
    """Functions run in fresh processes: results, exceptions and deaths come back; capabilities arrive untagged."""
    with capshm.Machine() as machine:
        here = os.getpid()
        assert machine.run(lambda number: (number + 1, os.getpid() != here), 1) == (2, True)
        assert machine.run(lambda: bsd.malloc(16)).tag is False
        with pytest.raises(ZeroDivisionError) as caught:
            machine.run(lambda: 1 // 0)
        assert "in process" in caught.value.__notes__[0]
        with pytest.raises(capshm.CapshmError, match="without an answer"):
            machine.run(os._exit, 3)
        with pytest.raises(capshm.CapshmError, match="cannot be pickled"):
            machine.run(lambda: threading.Lock())
        program = "import capshm; print(capshm.attach().machine)"
        with machine.spawn([sys.executable, "-c", program], stdout=-1) as process:
            assert process.communicate()[0].decode().strip() == machine.name


@pytest.mark.slow
@isolated()
def test_one_machine_at_a_time() -> None:
    """A second machine in the same process is refused, also in a child; a name in use is refused."""
    with capshm.Machine(name="first") as machine:
        with pytest.raises(capshm.CapshmError, match="one at a time"):
            capshm.Machine().__enter__()
        with pytest.raises(capshm.CapshmError, match="'first': another machine of that name is running"):
            start_broker(machine._settings, None)


@pytest.mark.slow
@isolated()
def test_the_arena_keeps_its_size() -> None:
    """Another size in the same process is refused with the reason, and the first one can be had again."""
    for _ in range(2):
        with capshm.Machine(arena_size=1 << 20):
            bsd.malloc(16)
        with pytest.raises(capshm.CapshmError, match="has an arena of 1 MiB"):
            capshm.Machine().__enter__()


@pytest.mark.parametrize(
    "arguments",
    [
        {"policy": "magic"},
        {"revoker": "magic"},
        {"stopper": "x"},
        {"scope": "x"},
        {"isa": "v10"},
        {"vmar_errors": "x"},
        {"arena_size": 1000},
        {"arena_size": -4096},
        {"stop_timeout": -1},
        {"stop_timeout": float("nan")},
        {"faults": "x"},
        {"leaks": "x"},
        {"name": "a/b"},
        {"name": ""},
    ],
)
def test_wrong_arguments(arguments: dict[str, object]) -> None:
    """Arguments are checked before anything is started."""
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own message
        capshm.Machine(**arguments)  # type: ignore[arg-type]


def test_an_unknown_policy_is_told_those_that_there_are() -> None:
    """Plug-ins have names of their own, so that the message lists what is installed."""
    with pytest.raises(ValueError, match=r"policy must be one of cheribsd, isolated, open.*, not 'magic'"):
        capshm.Machine(policy="magic")


@pytest.mark.slow
@isolated()
def test_a_machine_shows_what_it_is() -> None:
    """Its repr has name, policy, revoker, and the broker once there is one."""
    machine = capshm.Machine("open", "none", name="shown")
    assert repr(machine) == "<Machine 'shown': open, none, not entered>"
    with machine:
        assert repr(machine) == f"<Machine 'shown': open, none, broker {machine.broker_pid}>"


@pytest.mark.slow
@isolated()
def test_leaks_are_found() -> None:
    """With leaks="raise" leaving names the processes and objects that are left, and ends them all the same."""
    machine = capshm.Machine(leaks="raise").__enter__()
    os.close(bsd.shm_open("/left", os.O_RDWR | os.O_CREAT))
    with pytest.raises(capshm.LeakFound, match="/left"):
        machine.__exit__(None, None, None)


def _rules(machine: capshm.Machine, event: str) -> list[str]:
    return [each.rule.removeprefix("cheribsd:") for each in machine.audit() if each.event == event]


@pytest.mark.slow
@isolated()
def test_a_machine_tells_of_itself_only() -> None:
    """In another machine, its lists are an error, and not those of the other."""
    with capshm.Machine() as first:
        assert first.processes()
    with capshm.Machine() as second:
        calls: list[Callable[[], object]] = [
            first.processes,
            first.objects,
            first.audit,
            lambda: first.mappings(os.getpid()),
        ]
        for call in calls:
            with pytest.raises(capshm.CapshmError, match=second.name):
                call()
        assert second.processes()


@pytest.mark.slow
@isolated()
def test_mincore_of_what_is_not_there() -> None:
    """It is refused at the first page that is not mapped, however long the range."""
    with capshm.Machine(), pytest.raises(capshm.Refused, match="not all"):
        bsd.mincore(0, 1 << 60)


@pytest.mark.slow
@isolated()
def test_the_audit_names_the_row_of_a_mapping() -> None:
    """By what may pass, whose the object is, and how it was made; at a fork, by what takes the permission away."""
    with capshm.Machine() as machine, tempfile.TemporaryFile() as file:
        file.truncate(MEMORY)
        common, bound = (bsd.shm_open(bsd.SHM_ANON, os.O_RDWR | flag) for flag in (bsd.O_SHARECAP, 0))
        for fd in (common, bound):
            os.ftruncate(fd, MEMORY)
            for prot, flags in (
                (CAP, bsd.MAP_SHARED),
                (CAP, bsd.MAP_PRIVATE),
                (READ_WRITE | bsd.PROT_NO_CAP, bsd.MAP_SHARED),
            ):
                bsd.mmap(None, MEMORY, prot, flags, fd)
        bsd.mmap(None, MEMORY, CAP, bsd.MAP_SHARED | bsd.MAP_ANON)
        bsd.mmap(None, MEMORY, READ_WRITE, bsd.MAP_PRIVATE, file.fileno())
        bsd.mmap(None, MEMORY, READ_WRITE, bsd.MAP_SHARED, file.fileno())
        bsd.shmat(bsd.shmget(bsd.IPC_PRIVATE, MEMORY, 0o600))
        assert _rules(machine, "map") == ["E9", "E14", "E10", "E1", "E1", "E3", "G1", "A2", "E3"]
        assert _rules(machine, "shmat") == ["H1"]
        with Child(lambda: None) as child:
            assert child.wait() == 0
        assert _rules(machine, "fork drop") == ["F2"]
        bsd.procctl(bsd.PROC_SHARECAP_CTL, bsd.PROC_SHARECAP_DISABLE)
        with Child(lambda: None) as child:
            assert child.wait() == 0
        assert sorted(_rules(machine, "fork drop")[1:]) == ["F2", "K1", "K1", "K1"]


@pytest.mark.slow
@isolated()
def test_the_audit_names_the_policy_that_drops() -> None:
    """Under a policy that lets nothing cross, that is why a child has no capability permission."""
    with capshm.Machine("isolated") as machine:
        _shared()
        with Child(lambda: None) as child:
            assert child.wait() == 0
        assert _rules(machine, "fork drop") == ["isolated"]


@pytest.mark.slow
@isolated()
def test_a_file_is_an_object_while_it_is_mapped() -> None:
    """A refused mapping makes it none, and it is none any more when the last process that maps it has unmapped it."""
    with capshm.Machine(leaks="raise") as machine, tempfile.TemporaryFile() as file:
        file.truncate(MEMORY)
        assert _refusal(bsd.mmap, None, MEMORY, CAP, bsd.MAP_SHARED, file.fileno())[1] == "cheribsd:A15"
        assert machine.objects() == []
        first = bsd.mmap(None, MEMORY, bsd.PROT_READ, bsd.MAP_SHARED, file.fileno())
        second = bsd.mmap(None, MEMORY, bsd.PROT_READ, bsd.MAP_PRIVATE, file.fileno())
        (found,) = machine.objects()
        assert (found.kind, found.size) == ("file", -1)
        assert {each.object for each in machine.mappings(os.getpid())} == {found.id}
        bsd.munmap(first, MEMORY)
        assert machine.objects() == [found]
        go = Event()
        with Child(go.wait) as child:
            bsd.munmap(second, MEMORY)
            assert machine.objects() == [found]
            go.set()
            assert child.wait() == 0
        while len(machine.processes()) > 1:
            os.sched_yield()
        assert machine.objects() == []


@pytest.mark.slow
@isolated()
def test_names_and_descriptors() -> None:
    """Names are the machine's; each opening has its own offset; O_SHARECAP comes with creation; unlink ends it."""
    with capshm.Machine() as machine:
        first = bsd.shm_open("/name", os.O_RDWR | os.O_CREAT)
        second = bsd.shm_open("/name", os.O_RDWR)
        os.write(first, b"data")
        assert os.read(second, 4) == b"data"
        assert _refusal(bsd.shm_open, "/name", os.O_RDWR | bsd.O_SHARECAP)[1] == "cheribsd:D4"
        assert _refusal(bsd.shm_open, "/none", os.O_RDWR)[0] == 2
        bsd.shm_rename("/name", "/other")
        bsd.shm_unlink("/other")
        assert _refusal(bsd.shm_unlink, "/other")[0] == 2
        assert not os.get_inheritable(first)
        os.close(first)
        assert len(machine.objects()) == 1
        os.close(second)
        assert machine.objects() == []
        assert os.get_inheritable(bsd.memfd_create("x"))
        assert not os.get_inheritable(bsd.memfd_create("x", bsd.MFD_CLOEXEC))


@pytest.mark.slow
@isolated()
def test_system_v() -> None:
    """Segments carry tags between attachers, and go with the last attachment after IPC_RMID."""
    with capshm.Machine() as machine:
        number = bsd.shmget(42, 8192, bsd.IPC_CREAT | 0o600)
        area = bsd.shmat(number)
        area.store_capability(0, area)
        assert machine.run(lambda: bsd.shmat(bsd.shmget(42, 0, 0)).load_capability(0).tag)
        status = bsd.shmctl(number, bsd.IPC_STAT)
        assert status is not None
        assert (status.size, status.attached) == (8192, 1)
        bsd.shmctl(number, bsd.IPC_RMID)
        assert area.load_capability(0).tag
        bsd.shmdt(area)
        while machine.objects():  # the kernel takes its time with the memory of the process that has ended
            os.sched_yield()
        assert _refusal(bsd.shmat, number)[0] == 22


@pytest.mark.slow
@isolated()
def test_knobs() -> None:
    """A process whose sharing is switched off may not make what shares; its children keep the knob."""
    with capshm.Machine() as machine:
        assert bsd.procctl(bsd.PROC_SHARECAP_CTL) == bsd.PROC_SHARECAP_DEFAULT
        bsd.program_note(share_cap=False)
        assert _refusal(bsd.shm_open, bsd.SHM_ANON, os.O_RDWR | bsd.O_SHARECAP) == (13, "cheribsd:K1")
        assert bsd.procctl(bsd.PROC_SHARECAP_CTL, bsd.PROC_SHARECAP_ENABLE) == bsd.PROC_SHARECAP_ENABLE
        os.close(bsd.shm_open(bsd.SHM_ANON, os.O_RDWR | bsd.O_SHARECAP))
        assert ask_child(lambda: bsd.procctl(bsd.PROC_SHARECAP_CTL)) == bsd.PROC_SHARECAP_ENABLE
        assert [each.event for each in machine.audit()].count("knob") == 2


@pytest.mark.slow
@isolated()
def test_malloc() -> None:
    """Allocations have their own bounds, keep tags when they move, and a second free is an error."""
    with capshm.Machine():
        pointers = [bsd.malloc(size) for size in (0, 1, 16, 17, 100, 4096, 5000, 40000, 1 << 20)]
        ranges = sorted((pointer.base, pointer.top) for pointer in pointers)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ranges))
        for pointer in pointers:
            assert pointer.tag
            assert not pointer.permissions.contains(capshm.Permissions.SW_VMEM)
            pointer.store_capability(0, pointer)
        moved = bsd.realloc(pointers[3], 1000)
        assert moved.load_capability(0).tag
        assert bsd.malloc_usable_size(moved) >= 1000
        with pytest.raises(capshm.CapshmError, match="abort"):
            bsd.free(pointers[3])
        for pointer in [*pointers[:3], *pointers[4:], moved]:
            bsd.free(pointer)
        with pytest.raises(capshm.CapshmError, match="abort"):
            bsd.free(moved)
        assert bsd.calloc(3, 5).read(0, 15) == bytes(15)


@pytest.mark.slow
@isolated()
def test_mincore() -> None:
    """Pages are in memory once touched, and capability-dirty once a capability was stored."""
    with capshm.Machine():
        area = bsd.mmap(None, 3 * 4096, READ_WRITE, bsd.MAP_PRIVATE | bsd.MAP_ANON)
        area.write(4096, b"data")
        area.store_capability(8192, area)
        assert bsd.mincore(area, 3 * 4096) == [
            0,
            bsd.MINCORE_INCORE,
            bsd.MINCORE_INCORE | bsd.MINCORE_CAPSTORE,
        ]


def test_refusals_pickle() -> None:
    """A refusal is an OSError, and arrives in another process as it was."""
    refusal = capshm.Refused("what was asked", errno=1098, rule="cheribsd:B7")
    refusal.add_note("a note")
    copy = pickle.loads(pickle.dumps(refusal))
    assert isinstance(copy, capshm.Refused)
    assert issubclass(capshm.Refused, OSError)
    assert (copy.errno, copy.rule, str(copy), copy.__notes__) == (1098, "cheribsd:B7", str(refusal), ["a note"])


@pytest.mark.slow
@isolated()
def test_files() -> None:
    """A file may be mapped without capability permission; with it is refused, whoever asks."""
    with capshm.Machine(), Path(__file__).open("rb") as file:
        area = bsd.mmap(None, 4096, bsd.PROT_READ, bsd.MAP_SHARED, file.fileno(), 0)
        assert area.read(0, 3) == b'"""'
        rule = _refusal(bsd.mmap, None, 4096, bsd.PROT_READ | bsd.PROT_CAP, bsd.MAP_SHARED, file.fileno(), 0)[1]
        assert rule == "cheribsd:A15"
        private = bsd.mmap(None, 4096, READ_WRITE, bsd.MAP_PRIVATE, file.fileno(), 0)
        private.store_capability(0, private)
        assert private.load_capability(0).tag
        assert _refusal(bsd.mmap, None, 4096, bsd.PROT_READ, bsd.MAP_SHARED, 999, 0)[0] == 9
        read, _ = os.pipe()
        assert _refusal(bsd.mmap, None, 4096, bsd.PROT_READ, bsd.MAP_SHARED, read, 0)[0] == 19


@pytest.mark.slow
@isolated()
def test_an_uncaught_fault_ends_a_child_by_its_signal() -> None:
    """faults="signal": in a forked process the real signal; faults="raise", and errors that are no faults: an exit."""

    def fault() -> None:
        area = bsd.mmap(None, 4096, bsd.PROT_READ, bsd.MAP_ANON)
        area.without_tag().read(0, 1)

    def fail() -> None:
        raise ValueError

    for faults, body, status in (
        ("signal", fault, -signal.SIGSEGV),
        ("signal", fail, 1),
        ("raise", fault, 1),
    ):
        with capshm.Machine(faults=faults):
            pid = os.fork()
            if pid == 0:
                try:
                    body()
                except Exception:
                    sys.excepthook(*sys.exc_info())  # as the end of a program does
                os._exit(1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == status, faults


@pytest.mark.slow
@isolated()
def test_objects_tell_their_sizes_and_tags() -> None:
    """An object's size is known while anybody holds a descriptor, and its capabilities are counted, mapped or not."""
    with capshm.Machine() as machine:
        fd = bsd.shm_open(bsd.SHM_ANON, os.O_RDWR)
        os.ftruncate(fd, 1 << 20)
        area = bsd.mmap(None, 1 << 20, CAP, bsd.MAP_SHARED, fd, 0)
        area.fill_capabilities(512 << 10, 100, area)
        bsd.munmap(area, 1 << 20)
        (found,) = machine.objects()
        assert (found.size, found.tag_count) == (1 << 20, 100)
        area = bsd.mmap(None, 1 << 20, CAP, bsd.MAP_SHARED, fd, 0)
        os.close(fd)
        (found,) = machine.objects()
        assert (found.size, found.tag_count) == (-1, 100)


@pytest.mark.slow
@isolated()
def test_names_that_are_no_utf8() -> None:
    """Bytes of a file name that are no UTF-8 are refused where they name something, and shown elsewhere."""
    sys.argv[0] = "caf\udce9.py"
    with capshm.Machine() as machine:
        for call in (
            lambda: bsd.memfd_create("\udc80"),
            lambda: bsd.shm_unlink("/\udc80"),
            lambda: bsd.shm_rename("/a", "/b\udc80"),
        ):
            with pytest.raises(ValueError, match="cannot be written as UTF-8"):
                call()
        program = compile("bsd.mmap(None, 4096, 3, bsd.MAP_ANON | bsd.MAP_PRIVATE)", "\udce9.py", "eval")
        eval(program, {"bsd": bsd})
        assert len(machine.mappings(os.getpid())) == 1
        os.close(bsd.memfd_create("\u00e9"))


@pytest.mark.slow
@isolated()
def test_a_request_that_cannot_be_read_is_answered() -> None:
    """An answer without a number, to a packet of which nothing can be read, is the one that is waited for."""
    with capshm.Machine():
        link = client.current()._connection
        assert link is not None
        _json.write = lambda value: "nonsense"
        with pytest.raises(capshm.CapshmError, match="no request"):
            link.ask("processes")


@pytest.mark.slow
@pytest.mark.parametrize("is_replaced", [False, True])
@isolated()
def test_a_mapping_that_fails_leaves_what_was_there(is_replaced: bool) -> None:
    """Linux refuses memory for the sideband: MAP_FIXED has replaced nothing, in the model and in memory."""
    with capshm.Machine() as machine:
        fd = bsd.shm_open(bsd.SHM_ANON, os.O_RDWR)
        os.ftruncate(fd, MEMORY)
        area = bsd.mmap(None, 3 * 4096, READ_WRITE, bsd.MAP_ANON | bsd.MAP_PRIVATE)
        area.write(4096, b"precious")
        area.store_capability(4096 + 16, area)
        bsd.munmap(area.with_address(area.base), 4096)
        before = [(each.start, each.end, each.object) for each in machine.mappings(os.getpid())]
        spare, above = bytes(100 << 10), bytes(100 << 10)
        in_use = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * 4096
        limits = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (in_use, limits[1]))
        del spare  # what the broker's answer needs; what lies above it keeps malloc from giving it back
        place, flags = (area, bsd.MAP_SHARED | bsd.MAP_FIXED) if is_replaced else (None, bsd.MAP_SHARED)
        refusal = _refusal(bsd.mmap, place, 2 * 4096, READ_WRITE, flags, fd)
        resource.setrlimit(resource.RLIMIT_AS, limits)
        del above
        assert refusal == (errno.ENOMEM, "host")
        assert [(each.start, each.end, each.object) for each in machine.mappings(os.getpid())] == before
        assert area.read(4096, 8) == b"precious"
        assert area.load_capability(4096 + 16).tag
        bsd.munmap(area.with_address(area.base + 4096), 2 * 4096)
        assert machine.mappings(os.getpid()) == []


@pytest.mark.slow
@isolated()
def test_who_leaves_has_nothing_mapped() -> None:
    """The broker hears of it afterwards: it must not think that nobody has an object that is mapped still."""
    with capshm.Machine() as machine:
        assert machine.broker_pid is not None
        area = bsd.mmap(None, 4096, CAP, bsd.MAP_SHARED | bsd.MAP_ANON)
        with Child(_leave_stopped(machine.broker_pid)) as child:
            place = Path(f"/proc/{child.pid}/maps")
            while f"{area.base:x}-{area.base + 4096:x} rw" in place.read_text(encoding="utf-8"):
                os.sched_yield()
            os.kill(machine.broker_pid, signal.SIGCONT)
            assert child.wait() == 0


def _leave_stopped(broker: int) -> Callable[[], None]:
    def leave() -> None:
        os.kill(broker, signal.SIGSTOP)
        client.leave()

    return leave


@pytest.mark.slow
@isolated()
def test_a_process_leaves_while_the_machine_ends() -> None:
    """The broker finds both requests waiting, the end first, and ends when nobody is left, not when it gives up."""
    with capshm.Machine() as machine:
        broker = machine.broker_pid
        assert broker is not None
        place = Path(f"/proc/{os.getpid()}/wchan")
        stopped = Event()

        def leave() -> None:
            stopped.wait()
            while "packet" not in place.read_text(encoding="ascii"):  # the creator waits for its answer
                os.sched_yield()
            link = client.current()._connection
            assert link is not None
            assert link._socket is not None
            link._socket.send(b'{"do":"leave","n":77}')
            os.kill(broker, signal.SIGCONT)
            signal.pause()

        child = Child(leave)
        machine.processes()
        os.kill(broker, signal.SIGSTOP)
        stopped.set()
        start = time.monotonic()
    assert time.monotonic() - start < 8  # it gives up after 10
    child.kill()


@pytest.mark.slow
@isolated()
def test_an_interrupt_before_a_fork() -> None:
    """Whatever comes while a fork is prepared, the parent goes on, and the child is told that it has no part."""
    with capshm.Machine():
        link = client.current()._connection

        def interrupt(*arguments: object, **named: object) -> None:
            raise KeyboardInterrupt

        link.ask = interrupt  # type: ignore[union-attr, method-assign]

        def look() -> None:
            with pytest.raises(capshm.NotAttached):
                bsd.memfd_create("x")

        with Child(look) as child:
            assert child.wait() == 0
        del link.ask  # type: ignore[union-attr]
        os.close(bsd.memfd_create("x"))
