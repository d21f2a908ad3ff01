"""The threads of one process on its heap (tests/native/allocator.c), and ThreadSanitizer's look at them."""

from pathlib import Path

import pytest

from native import variants
from tests.litmus import programs
from tests.litmus.test_threads import RACE_FOUND, needs_sanitizer

UNGUARDED: variants.Patch = (
    "allocator.c",
    "atomic_exchange_explicit(&is_locked, true, memory_order_acquire)",
    "atomic_exchange_explicit(&is_locked, true, memory_order_relaxed)",
)


def _build_sanitized(*patches: variants.Patch, variant: str = "") -> Path:
    return programs.build(
        "allocator", "portable", cflags=variants.THREAD_SANITIZER, patches=patches, variant=f"tsan{variant}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("core", programs.CORES)
def test_nobody_gets_what_is_anothers(core: str) -> None:
    """Threads and children allocate, free and run passes: no memory has two owners, none is used too early."""
    outcome = programs.run(programs.build("allocator", core), 20000)
    assert outcome.status == 0, outcome.text


@needs_sanitizer
@pytest.mark.slow
def test_the_heap_does_not_race() -> None:
    """ThreadSanitizer finds nothing in the portable core."""
    outcome = programs.run(_build_sanitized(), 2000)
    assert "ThreadSanitizer" not in outcome.text
    assert outcome.status == 0, outcome.text


@needs_sanitizer
@pytest.mark.slow
def test_an_unguarded_heap_is_found() -> None:
    """ThreadSanitizer finds a lock that was taken without acquiring what it guards."""
    outcome = programs.run(_build_sanitized(UNGUARDED, variant="-seeded"), 2000)
    assert "WARNING: ThreadSanitizer: data race" in outcome.text
    assert outcome.status in (RACE_FOUND, 1)  # 1: it was found in a child
