"""A server that makes memory objects and passes their descriptors to another process.

Compositors with their buffers, browsers, Arrow and Plasma: the server creates an object, fills it with capabilities,
and sends the descriptor over a socket together with its address; the worker maps it, serves what is in it, answers, and
both give it up. Each object is mapped and passed once, so this is what a policy costs in calls. Where the worker may
not map it with capability permission, it has the data and derives again from its own mapping.
"""

from __future__ import annotations

import os
import socket
import struct
from typing import TYPE_CHECKING

from capshm.lab.cells.crew import CellFailed
from capshm.lab.cells.graph import Graph, compare_sums

if TYPE_CHECKING:
    from capshm.lab.cells.cell import Setting

DEFAULT_SIZE = 4 << 20
OBJECT_SIZE = 64 << 10
_MESSAGE = struct.Struct("Q")  # the address of an object, beside its descriptor; the worker answers with the same


def run(setting: Setting) -> None:
    """Pass so many objects of OBJECT_SIZE bytes as the size has."""
    world, crew, objects = setting.world, setting.crew, setting.size // OBJECT_SIZE
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

    def work() -> None:
        ours.close()  # so that the server's end closes this one
        for number in range(objects):
            message, descriptors, _, _ = socket.recv_fds(theirs, _MESSAGE.size, 1)
            if not message:
                raise CellFailed("the server has gone")
            area = world.receive(descriptors[0], OBJECT_SIZE, *_MESSAGE.unpack(message))
            Graph(area, crew).serve(0, 1, setting.seed + number)
            area.close()
            os.close(descriptors[0])
            theirs.send(message)

    def serve(number: int) -> int:
        descriptor, area = world.create(OBJECT_SIZE)
        graph = Graph(area, crew)
        graph.fill((setting.seed + number) % (1 << 64))
        message = _MESSAGE.pack(area.address)
        try:
            socket.send_fds(ours, [message], [descriptor])
            is_answered = ours.recv(_MESSAGE.size) == message
        except ConnectionError:
            is_answered = False
        os.close(descriptor)
        if not is_answered:
            crew.wait()  # tells how it has ended
            raise CellFailed("the worker has ended before it had answered")
        collected = graph.collect()
        area.close()
        return collected

    with ours, setting.measured():
        crew.fork(work)
        theirs.close()
        collected = sum(serve(number) for number in range(objects))
        crew.wait()
    compare_sums(collected, crew)
