"""The other side of `Machine.run`: `python -m capshm._run QUESTION ANSWER`, two descriptors of memory files."""

from __future__ import annotations

import json
import os
import pickle
import sys
import traceback
from typing import BinaryIO

from capshm import client
from capshm.errors import CapshmError


def write_question(file: BinaryIO, pickled: bytes) -> None:
    """The pickled (function, args, named), behind what must be set before it can be read."""
    file.write(json.dumps(sys.path).encode() + b"\n" + pickled)


def read_answer(text: bytes) -> object:
    """What came back: returned, or raised with the other process's traceback as a note."""
    is_returned, value, note = pickle.loads(text)
    if is_returned:
        return value
    value.add_note(note)
    raise value


def main() -> None:
    """Run one function."""
    import cloudpickle

    question, answer = (int(argument) for argument in sys.argv[1:])
    with os.fdopen(question, "rb") as file:
        file.seek(0)
        sys.path[:] = json.loads(file.readline())
        pickled = file.read()
    client.attach()
    pid = os.getpid()
    try:
        function, args, named = pickle.loads(pickled)
        told = (True, function(*args, **named), "")
    except BaseException as error:
        told = (False, error, f"in process {pid}:\n{traceback.format_exc()}")
    if os.getpid() != pid:
        os._exit(1)  # a child that the function has forked came out of it: it is not asked
    try:
        text = cloudpickle.dumps(told)
    except Exception as error:
        what = "returned" if told[0] else "raised"
        reason = CapshmError(f"process {pid} {what} {told[1]!r:.500}, which cannot be pickled: {error}")
        text = cloudpickle.dumps((False, reason, told[2]))
    with os.fdopen(answer, "wb") as file:
        file.write(text)


if __name__ == "__main__":
    main()
