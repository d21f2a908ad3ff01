"""Real processes, and those of the reference beside them: how they come, go, and do what they are told."""

import os
import signal
import socket
import subprocess

from capshm import Machine
from tests.properties.machine_program import Step
from tests.properties.machine_workers import Outcome, Worker, command, control_pair, serve
from tests.properties.reference_machine import ReferenceMachine


class Stage:
    """A machine and its workers. steps: what was done so far; numbers: of objects, by those of the reference."""

    def __init__(self, policy: str) -> None:
        self.policy = policy
        self.steps: list[Step] = []
        self.reference = ReferenceMachine(policy)
        self.machine = Machine(policy=policy)
        self.machine.__enter__()
        os.environ["CAPSHM_MACHINE"] = self.machine.name
        self.workers: dict[str, Worker] = {}
        self.stopped: set[str] = set()
        self.numbers: dict[int, int] = {}
        self.left, self.right = socket.socketpair()
        for end in (self.left, self.right):
            os.set_inheritable(end.fileno(), True)
        self._names = 0
        self._children: list[int] = []
        self._programs: list[subprocess.Popen[bytes]] = []
        self._begin()

    def name(self, letter: str) -> str:
        """A new one."""
        self._names += 1
        return f"{letter}{self._names}"

    def _note(self, process: str, statement: str) -> None:
        self.steps.append(Step(process, statement, "", Outcome("value")))

    # Processes

    def _begin(self) -> None:
        ours, theirs = control_pair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            serve(theirs, {"left": self.left, "right": self.right})
        theirs.close()
        self._children.append(pid)
        self.reference.attach("p0")
        self.workers["p0"] = Worker(ours)
        self._note("main", 'fork("p0")')

    def running(self) -> list[str]:
        """The processes that can be told something."""
        return [name for name in self.reference.processes if name not in self.stopped]

    def fork(self, name: str) -> None:
        """A child of this worker."""
        child = self.name("p")
        self._note(name, f'fork("{child}")')
        ours, theirs = control_pair()
        self.workers[name].send("fork", fd=theirs.fileno())
        theirs.close()
        outcome = self.workers[name].answer()
        assert outcome.kind == "value", outcome
        self.workers[child] = Worker(ours)
        self.reference.fork(self.reference.processes[name], child)

    def spawn(self) -> None:
        """A new program."""
        name = self.name("p")
        self._note("main", f'spawn(machine, "{name}")')
        ours, theirs = control_pair()
        ends = (self.left.fileno(), self.right.fileno())
        arguments = command(theirs.fileno(), ends, {})
        self._programs.append(self.machine.spawn(arguments, pass_fds=(theirs.fileno(), *ends)))
        theirs.close()
        self.workers[name] = Worker(ours)
        self.reference.attach(name)

    def exec(self, name: str) -> None:
        """Another program in this process."""
        after = self.reference.exec(self.reference.processes[name])
        kept = ", ".join(after.descriptors)
        self._note(name, f"exec_again({kept})")
        if kept:
            self._note(name, f"{kept}{',' if len(after.descriptors) == 1 else ''} = kept_descriptors()")
        worker = self.workers[name]
        worker.send("exec", " ".join(after.descriptors))
        outcome = worker.answer()
        assert outcome == Outcome("value", worker.pid), f"{name} did not come back from exec: {outcome}"

    def kill(self, name: str) -> None:
        """End it from outside."""
        self._note("main", f'os.kill(pid_of("{name}"), signal.SIGKILL)')
        os.kill(self.workers[name].pid, signal.SIGKILL)
        self.wait_until_gone(name)

    def leave(self, name: str) -> None:
        """It ends by itself."""
        self.run_to_death(name, "os._exit(0)")

    def run_to_death(self, name: str, statement: str) -> None:
        """A statement that ends its process."""
        self.steps.append(Step(name, f"baton[0] += 1; {statement}", "", Outcome("death")))
        self.workers[name].send(statement)
        outcome = self.workers[name].answer()
        assert outcome.kind == "death", f"{name}: {statement}: {outcome}, and should have ended the process"
        self.wait_until_gone(name)

    def wait_until_gone(self, name: str) -> None:
        """The broker has noticed."""
        self._note("main", f'wait_until_gone(machine, "{name}")')
        worker = self.workers.pop(name)
        while any(each.pid == worker.pid for each in self.machine.processes()):
            os.sched_yield()
        worker.close()
        self.stopped.discard(name)
        self.reference.end(self.reference.processes[name])

    def stop(self, name: str) -> None:
        """Stop it, between two of its steps."""
        self._note("main", f'os.kill(pid_of("{name}"), signal.SIGSTOP)')
        os.kill(self.workers[name].pid, signal.SIGSTOP)
        self.stopped.add(name)

    def resume(self, name: str) -> None:
        """Let it go on."""
        self._note("main", f'os.kill(pid_of("{name}"), signal.SIGCONT)')
        os.kill(self.workers[name].pid, signal.SIGCONT)
        self.stopped.remove(name)

    def close(self) -> None:
        """End everything."""
        for worker in self.workers.values():
            os.kill(worker.pid, signal.SIGKILL)
            worker.close()
        self.machine.__exit__(None, None, None)
        for pid in self._children:
            os.waitpid(pid, 0)
        for program in self._programs:
            program.wait()
        self.left.close()
        self.right.close()

    # Statements

    def do(self, name: str, statement: str, expression: str, expected: Outcome) -> Outcome:
        """Have it done by a process, and compare."""
        self.steps.append(Step(name, statement, expression, expected))
        self.workers[name].send(statement, expression)
        outcome = self.workers[name].answer()
        if not outcome.agrees(expected):
            raise AssertionError(f"{name}: {statement or expression}: {outcome}; the reference: {expected}")
        return outcome

    def descriptor(self, name: str, fd: str, source: str) -> None:
        """A statement that makes a descriptor."""
        self.do(name, f"{fd} = {source}", "", Outcome("value"))
