"""The threads of one process (tests/native/threads.c), and ThreadSanitizer's look at them."""

from pathlib import Path

import pytest

from native import variants
from tests.litmus import programs

RACE_FOUND = 66  # the exit status that programs.run asks ThreadSanitizer for

# Small wrong cores, each with one order or atomicity less; the portable path is what the sanitizer sees.
SEEDED_RACES: dict[str, variants.Patch] = {
    "a plain store of data": (
        "program.c",
        "__atomic_store_n(&to->address, from->address, __ATOMIC_RELEASE);",
        "to->address = from->address;",
    ),
    "an operation that ends without release": (
        "gate.h",
        "atomic_store_explicit(&slot->in_operation, GATE_OUTSIDE, memory_order_release);\n    STEP(OPERATION_LEFT);",
        "atomic_store_explicit(&slot->in_operation, GATE_OUTSIDE, memory_order_relaxed);",
    ),
}

needs_sanitizer = pytest.mark.skipif(
    variants.sanitizer_runtime("tsan") is None, reason="the C compiler of this machine has no thread sanitizer"
)


def _build_sanitized(*patches: variants.Patch, variant: str = "") -> Path:
    return programs.build(
        "threads", "portable", cflags=variants.THREAD_SANITIZER, patches=patches, variant=f"tsan{variant}"
    )


@pytest.mark.slow
@pytest.mark.parametrize("core", programs.CORES)
def test_threads_see_what_an_order_explains(core: str) -> None:
    """Loads beside stores, fills, copies, writes, sweeps, mappings, forks and new threads are whole, never forged."""
    outcome = programs.run(programs.build("threads", core), 500)
    assert outcome.status == 0, outcome.text
    (result,) = outcome.results
    assert (result["torn"], result["forged"]) == (0, 0)
    assert int(result["tagged"]) > 0
    assert int(result["swept"]) > 0


@needs_sanitizer
@pytest.mark.slow
def test_threads_do_not_race() -> None:
    """ThreadSanitizer finds nothing in the portable core."""
    outcome = programs.run(_build_sanitized(), 200)
    assert "ThreadSanitizer" not in outcome.text
    assert outcome.status == 0, outcome.text


@needs_sanitizer
@pytest.mark.slow
@pytest.mark.parametrize("seeded", SEEDED_RACES)
def test_seeded_race_is_found(seeded: str) -> None:
    """ThreadSanitizer finds a race that was sown in the core: it does look at what the core does."""
    outcome = programs.run(_build_sanitized(SEEDED_RACES[seeded], variant="-seeded"), 200)
    assert "WARNING: ThreadSanitizer: data race" in outcome.text
    assert outcome.status == RACE_FOUND
