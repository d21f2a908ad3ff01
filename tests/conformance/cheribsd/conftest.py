"""Tagged memory in either ISA profile."""

from collections.abc import Iterator

import pytest

from capshm import Capability
from capshm.testing import Segment

SIZE = 1 << 16


@pytest.fixture(params=["v9", "rvy"])
def isa(request: pytest.FixtureRequest) -> str:
    """The profile; a test of one of them is parametrized indirectly."""
    return str(request.param)


@pytest.fixture
def segment(isa: str) -> Iterator[Segment]:
    """A segment in a process of that profile, which belongs to the whole process: the default is back afterwards."""
    with Segment(SIZE, isa=isa) as made:
        yield made
    Segment(1, isa="v9").close()


@pytest.fixture
def root(segment: Segment) -> Capability:
    """A tagged, unsealed capability to all of it, with all permissions, pages included."""
    return segment.root
