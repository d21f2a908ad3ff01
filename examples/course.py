"""What the examples share: a line for each thing that is to be seen, and a check that it is so.

Lines are written at once, so those of a child stand where the child has its turn. An example that does not show what it
claims ends with a traceback.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from capshm import CapshmError

_WIDTH = 52


def tell(what: str, found: object) -> None:
    """Print what was found."""
    print(f"{what:{_WIDTH}} {found}", flush=True)


def show(what: str, found: object, expected: object) -> None:
    """The same. AssertionError: it is not what was expected."""
    tell(what, found)
    assert found == expected, f"{what}: {expected} was expected"


@contextmanager
def expect(error: type[CapshmError], what: str, *, rule: str = "") -> Iterator[None]:
    """Print by what the block was stopped: its rule (`capshm explain RULE` says more), or the name of the fault.

    AssertionError: it was not stopped, or by another rule. Other errors pass.
    """
    try:
        yield
    except error as stopped:
        show(what, getattr(stopped, "rule", type(stopped).__name__), rule or error.__name__)
    else:
        raise AssertionError(f"{what}: nothing stopped it")
