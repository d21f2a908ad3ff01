"""Points armed by name: what they do to the process that comes by, and what is refused."""

import os
import signal

import pytest

from capshm.testing import Segment, steps
from capshm.testing.steps import StepPointsUnavailable
from tests.faults.isolation import isolated
from tests.faults.processes import Child


def test_names() -> None:
    """Every core knows the names, in order."""
    assert steps.names().index("LINE_LOCKED") < steps.names().index("TAGS_SET")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"step": "LINE_LOKED"}, "no step 'LINE_LOKED'"),
        ({"step": "LINE_LOCKED", "action": "pause"}, "must be one of"),
        ({"step": "LINE_LOCKED", "nth": 0}, "nth must be"),
        ({"step": "LINE_LOCKED", "nth": 1 << 32}, "nth must be"),
    ],
)
def test_what_does_not_exist_is_refused(arguments: dict[str, object], words: str) -> None:
    """By its name, with any core."""
    with pytest.raises(ValueError, match=words):
        steps.arm(**arguments)  # type: ignore[arg-type]


@pytest.mark.slow
@isolated(core="release")
def test_a_core_without_points_says_so() -> None:
    """The error says what to do."""
    assert not steps.is_available()
    with pytest.raises(StepPointsUnavailable, match="CAPSHM_CORE=steps"), steps.armed("LINE_LOCKED"):
        pass
    steps.disarm()


@pytest.mark.slow
@isolated(core="steps")
def test_the_nth_passage_stops_or_kills() -> None:
    """Passages before the n-th do nothing, and neither does any after the block."""
    assert steps.is_available()
    with Segment(4096) as segment:

        def body() -> None:
            with steps.armed("LINE_LOCKED", nth=2):
                segment.root.store_capability(0, segment.root)
                assert segment.root.load_capability(0).tag
                segment.root.store_capability(16, segment.root)
            with steps.armed("LINE_LOCKED", nth=2, action="kill"):
                segment.root.store_capability(32, segment.root)
            segment.root.store_capability(48, segment.root)
            steps.arm("LINE_LOCKED", action="kill")
            segment.root.store_capability(64, segment.root)
            os._exit(0)

        with Child(body) as child:
            assert child.wait_stopped()
            child.resume()
            assert child.wait() == -signal.SIGKILL
        assert list(segment.root.load_capabilities(0, 5).tags) == [1, 1, 1, 1, 0]
