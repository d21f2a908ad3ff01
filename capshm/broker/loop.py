"""Waits for whatever happens next and calls what belongs to it: one thread, one epoll.

A handler that raises is a defect of the broker. It must not end the machine for everybody else, so its descriptor is
handed to `on_defect` and the loop goes on.
"""

from __future__ import annotations

import heapq
import select
import time
from collections.abc import Callable

Handler = Callable[[], None]


class Loop:
    """on_defect: called with the descriptor and the exception of a handler that raised."""

    def __init__(self, on_defect: Callable[[int, Exception], None]) -> None:
        self._epoll = select.epoll()
        self._handlers: dict[int, Handler] = {}
        self._on_defect = on_defect
        self._is_running = False
        self._timers: list[tuple[float, int, Handler]] = []
        self._timers_made = 0

    def after(self, seconds: float, handler: Handler) -> None:
        """Call `handler` once, in so many seconds."""
        self._timers_made += 1  # those of one time are called in order, and never compared
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._timers_made, handler))

    def add(self, fd: int, handler: Handler) -> None:
        """Call `handler` whenever `fd` is readable or has hung up."""
        self._epoll.register(fd, select.EPOLLIN)
        self._handlers[fd] = handler

    def remove(self, fd: int) -> None:
        """No more of it; before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def run(self, deadline: Callable[[], float | None]) -> None:
        """Until `stop`, or until the time (of time.monotonic) that `deadline` returns has come."""
        self._is_running = True
        while self._is_running:
            end = deadline()
            if end is not None and end <= time.monotonic():
                return
            for fd, _ in self._epoll.poll(self._pause(end)):
                handler = self._handlers.get(fd)  # an earlier one of this round may have removed it
                if handler is None:
                    continue
                try:
                    handler()
                except Exception as error:
                    self._on_defect(fd, error)
            self._call_timers()

    def _pause(self, end: float | None) -> float | None:
        """How long nothing is due."""
        due = [each for each in (end, self._timers[0][0] if self._timers else None) if each is not None]
        return max(min(due) - time.monotonic(), 0) if due else None

    def _call_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            _, _, handler = heapq.heappop(self._timers)
            try:
                handler()
            except Exception as error:
                self._on_defect(-1, error)

    def stop(self) -> None:
        """Return from `run` after this round."""
        self._is_running = False
