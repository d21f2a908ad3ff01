"""Memory that holds capabilities, for tests that need no other."""

from collections.abc import Iterator

import pytest

from capshm import Capability
from capshm.testing import Segment


@pytest.fixture
def segment() -> Iterator[Segment]:
    """Four pages."""
    with Segment(4 * 4096) as made:
        yield made


@pytest.fixture
def root(segment: Segment) -> Capability:
    """A capability over all of it."""
    return segment.root
