"""Wrong variants of the core, and of the broker: what each changes, why it is wrong, and the test that must find it.

A patch names a text that must be there exactly once: when the core moves on, the patch must follow, or the table fails.
"""

from dataclasses import dataclass

from native.variants import Patch


@dataclass(frozen=True)
class Program:
    """A C program of tests/native, linked with the patched core, that must end with another status than 0."""

    name: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Node:
    """Tests, as pytest names them, of which at least one must fail on the patched core, which has step points."""

    name: str


@dataclass(frozen=True)
class Bug:
    name: str
    why: str
    patches: tuple[Patch, ...]
    found_by: Program | Node
    also_found_by: tuple[Program | Node, ...] = ()
    modules: tuple[Patch, ...] = ()  # of Python files, by their paths from the root


CONFORMANCE = "tests/conformance/cheribsd"
BETWEEN_STEPS = "tests/faults/test_between_steps.py"
ALLOCATOR = "tests/unit/test_allocator.py"
HEAP_THREADS = "tests/unit/test_allocator_threads.py"
QUARANTINE = "tests/unit/test_quarantine.py"
HISTORY = "tests/litmus/test_history.py::test_all_has_an_explanation"

REVOCATION = f"{CONFORMANCE}/test_revocation.py"
REVOCATION_FAULTS = "tests/faults/test_revocation.py"
ATTACK = "tests/faults/test_revocation_attack.py"
ASLEEP = "tests/faults/test_revocation_asleep.py"
ORIGINS = f"{CONFORMANCE}/test_origins.py"

BUGS = [
    Bug(
        "tag-outlives-a-raw-write",
        "the twin is not compared: bytes that capshm never saw keep the tag",
        (
            ("line.h", "unlikely((twin.address ^ value->address) | (twin.metadata ^ value->metadata)) ||", ""),
            ("sideband.c", "differing |= (uint64_t)differs << i;", "(void)differs;"),
        ),
        Node(f"{CONFORMANCE}/test_memory_operations.py::test_a_raw_store_untags_what_it_changes"),
        (Node(HISTORY),),
    ),
    Bug(
        "twin-half-compared",
        "only the addresses are compared: other metadata under the same address keep the tag",
        (
            ("line.h", " | (twin.metadata ^ value->metadata)", ""),
            ("sideband.c", " | (data->metadata ^ twin.metadata)", ""),
        ),
        Node(f"{CONFORMANCE}/test_memory_operations.py::test_a_raw_store_untags_what_it_changes"),
    ),
    Bug(
        "load-does-not-look-again",
        "a load does not read the lock word a second time: what it read need not belong together",
        (
            (
                "line.h",
                "return likely(atomic_load_explicit(&place->line->lock, memory_order_relaxed) == lock); /* (3) */",
                "return true;",
            ),
            (
                "sideband.c",
                "if (unlikely(atomic_load_explicit(&place->line->lock, memory_order_relaxed) != lock)) /* (3) */",
                "if (0)",
            ),
        ),
        Node(f"{BETWEEN_STEPS}::test_a_load_beside_stores"),
    ),
    Bug(
        "version-stands-still",
        "the version does not change: a load that meets a whole store between its two looks does not see it",
        (
            (
                "sideband.c",
                "return (lock & ~(LOCK_VERSION_ONE - 1)) + LOCK_VERSION_ONE;",
                "return lock & ~(LOCK_VERSION_ONE - 1);",
            ),
        ),
        Node(f"{BETWEEN_STEPS}::test_a_load_beside_stores"),
    ),
    Bug(
        "version-wraps",
        "the version has one bit: two stores between the two looks of a load are not seen",
        (
            (
                "sideband.c",
                "return (lock & ~(LOCK_VERSION_ONE - 1)) + LOCK_VERSION_ONE;",
                "return ((lock & ~(LOCK_VERSION_ONE - 1)) + LOCK_VERSION_ONE) & LOCK_VERSION_ONE;",
            ),
        ),
        Node(f"{BETWEEN_STEPS}::test_a_load_beside_stores"),
    ),
    Bug(
        "load-ignores-the-lock",
        "a load goes on beside the holder of its own granule",
        (
            ("sideband.c", "    if (unlikely(line_is_held(place, lock)))\n        return ATTEMPT_HELD;\n", ""),
            ("line.h", "    if (unlikely(lock & LOCK_SLOT))\n        return false;\n    *tag", "    *tag"),
        ),
        Node("tests/faults/test_stop.py::test_stopped_at_every_step"),
    ),
    Bug(
        "lock-without-exclusion",
        "the lock is taken by a plain store: two processes hold it at once",
        (
            (
                "sideband.c",
                "if (!atomic_compare_exchange_strong_explicit(&place->line->lock, &lock, *locked, ",
                (
                    "atomic_store_explicit(&place->line->lock, *locked, memory_order_relaxed);\n"
                    "    if (!atomic_compare_exchange_strong_explicit(locked, locked, *locked, "
                ),
            ),
        ),
        Node(f"{BETWEEN_STEPS}::test_a_lock_has_one_holder"),
    ),
    Bug(
        "alone-after-fork",
        "a fork does not end the mode in which one thread alone can reach the tag lines",
        (("process.c", "        if (is_private_too || !region->is_private)\n", "        if (is_private_too)\n"),),
        Node(f"{BETWEEN_STEPS}::test_a_lock_has_one_holder"),
    ),
    Bug(
        "clear-bit-reset-under-the-tag",
        "a store resets the clear bit after its tag bit: if it dies in between, what it stored is not tagged",
        (
            ("sideband.c", "    line_reset_clear(place, tags_now);\n", ""),
            (
                "sideband.c",
                "    STEP(TAGS_SET);\n",
                "    STEP(TAGS_SET);\n    atomic_fetch_and(place->clear, ~tags_now);\n",
            ),
        ),
        Node("tests/faults/test_death.py::test_what_a_store_killed_at_a_step_leaves"),
    ),
    Bug(
        "clear-bit-reset-last",
        "a store resets the clear bit after unlocking: a data write that came when others saw the tag loses its effect",
        (
            ("sideband.c", "    line_reset_clear(place, tags_now);\n", ""),
            (
                "sideband.c",
                "    line_unlock(place, locked);\n",
                "    line_unlock(place, locked);\n    atomic_fetch_and(place->clear, ~tags_now);\n",
            ),
        ),
        Node(f"{BETWEEN_STEPS}::test_a_store_beside_a_data_write"),
    ),
    Bug(
        "clear-bit-without-barrier",
        "a data write sets the clear bit without a barrier: a store that covers its bytes misses it and stays untagged",
        (("sideband.c", "        gate_barrier_everywhere(); /* before the bytes; partner: (5), (6) */\n", ""),),
        Program("litmus", ("settled", "400000", "1")),
    ),
    Bug(
        "clear-map-ignored",
        "a load does not ask the clear map: a data write of the same bytes leaves the tag",
        (
            (
                "sideband.c",
                "const uint64_t candidates = (set & ~cleared) >> place->first;",
                "const uint64_t candidates = (set | (cleared & 0)) >> place->first;",
            ),
            (
                "line.h",
                "unlikely(atomic_load_explicit(place->clear, memory_order_acquire) >> place->first & 1))",
                "false)",
            ),
        ),
        Node("tests/litmus/test_overwrite.py"),
        (Node(HISTORY),),
    ),
    Bug(
        "tail-granule-kept",
        "an unaligned data write does not clear the granule that its last bytes lie in",
        (
            ("data.c", "(end - granule + GRANULE_SIZE - 1) >> GRANULE_SHIFT", "(end - granule) >> GRANULE_SHIFT"),
            ("data.c", "    while (granule < end) {", "    while (granule + GRANULE_SIZE <= end) {"),
        ),
        Node(f"{CONFORMANCE}/test_memory_operations.py::test_a_data_write_clears_every_granule_it_touches"),
        (Node(HISTORY),),
    ),
    Bug(
        "largest-exponent-off-by-one",
        "exponents are clamped to 51: capabilities of the upper half of the address space decode wrongly",
        (
            (
                "encoding.h",
                "exponent = exponent > EXPONENT_MAXIMUM ? EXPONENT_MAXIMUM : exponent;",
                "exponent = exponent > EXPONENT_MAXIMUM - 1 ? EXPONENT_MAXIMUM - 1 : exponent;",
            ),
        ),
        Node("tests/unit/test_encoding.py"),
    ),
    Bug(
        "bounds-forget-the-size",
        "an access is checked at its first byte only",
        (
            (
                "checks.h",
                "return size <= length && address - base <= length - size;",
                "return size <= length && address - base < length;",
            ),
        ),
        Node(f"{CONFORMANCE}/test_memory_operations.py"),
    ),
    Bug(
        "fault-keeps-the-gate",
        "an access that faulted does not leave its operation: no stop succeeds any more",
        (
            (
                "checks.c",
                "    gate_leave();\n    if (result == LINE_FAULTED)\n        return refuse_access",
                "    if (result == LINE_FAULTED)\n        return refuse_access",
            ),
        ),
        Node("tests/unit/test_gate.py"),
    ),
    Bug(
        "fault-keeps-the-tag",
        "a store that faulted half-way sets the tag all the same",
        (
            (
                "sideband.c",
                "(tagged & (i == LINE_GRANULES ? UINT64_MAX : ((uint64_t)1 << i) - 1)) << place->first;",
                "tagged << place->first;",
            ),
        ),
        Node("tests/faults/test_truncation.py"),
    ),
    Bug(
        "dead-holder-keeps-the-lock",
        "nobody looks whether the holder of a lock still lives: the dead are waited for",
        (("sideband.c", "if (*waited > 0 && (owner == 0 || gate_owner_is_dead(owner))) {", "if (owner == 0) {"),),
        Node("tests/faults/test_death.py::test_the_dead_are_not_waited_for"),
    ),
    Bug(
        "sweep-forgets-the-last-lines",
        "lines behind the last whole group of eight are not swept",
        (("sweep_body.h", "    for (; line < line_count; line++)\n        take_line(&pass, line);\n", ""),),
        Program("sweep_check"),
    ),
    Bug(
        "sweep-spares-the-last-dense-lines",
        "dense lines that wait for their prefetch are not examined at the end",
        (
            (
                "sweep_body.h",
                "for (size_t i = 0; i < DENSE_LAG && i < pass.dense_count; i++)",
                "for (size_t i = 1; i < DENSE_LAG && i < pass.dense_count; i++)",
            ),
        ),
        Program("sweep_check"),
    ),
    Bug(
        "revocation-by-address",
        "a capability is judged by where it points, not by its base",
        (("sweep.h", "shadow_is_painted(shadow, capability_base(value))", "shadow_is_painted(shadow, value.address)"),),
        Program("sweep_check"),
    ),
    Bug(
        "registers-not-swept",
        "a process goes on after an epoch with what it holds in registers",
        (
            (
                "revoke.c",
                "        register_file_sweep(&revocation.shadow, &revocation.counts.tags);\n        return STATUS_OK;",
                "        return STATUS_OK;",
            ),
        ),
        Node("tests/unit/test_sweep.py::test_an_epoch_reaches_other_processes"),
        (Program("revoked", ("4000", "100")),),
    ),
    Bug(
        "stop-without-barrier",
        "the gate is closed without a barrier in the other processes: a flag that is not visible yet is missed",
        (("gate.c", "    gate_barrier_everywhere();\n    const uint32_t used", "    const uint32_t used"),),
        Program("gate", ("200000",)),
    ),
    Bug(
        "flag-after-the-look",
        "an operation looks at the gate before it says that it is inside",
        (
            ("gate.h", "    atomic_store_explicit(&slot->in_operation, GATE_INSIDE, memory_order_relaxed);\n", ""),
            (
                "gate.h",
                "    STEP(OPERATION_ENTERED);\n",
                (
                    "    STEP(OPERATION_ENTERED);\n"
                    "    atomic_store_explicit(&slot->in_operation, GATE_INSIDE, memory_order_relaxed);\n"
                ),
            ),
        ),
        Node("tests/faults/test_gate.py::test_straggler_stopped"),
    ),
    Bug(
        "slots-too-short",
        "a quarter of a doubling is forgotten: the end of an allocation is its neighbour's beginning",
        (("slots.c", "(uint64_t)(5 + number % 4)", "(uint64_t)(4 + number % 4)"),),
        Program("allocator"),
        (Node(f"{ALLOCATOR}::test_each_size_has_its_slot_and_its_bounds"),),
    ),
    Bug(
        "allocations-change-mappings",
        "pointers to allocations keep SW_VMEM: revocation passes them over, and they unmap (C17)",
        (("allocator.c", " & ~(uint32_t)PERMISSION_SW_VMEM", ""),),
        Node(f"{CONFORMANCE}/test_reservations.py::test_C17_pointers_of_malloc_change_no_mappings"),
    ),
    Bug(
        "freed-is-free-at-once",
        "what is freed is used again before it is revoked",
        (("allocator.c", "    if (!quarantine.policy.is_quarantining) {", "    if (true) {"),),
        Node(f"{QUARANTINE}::test_nothing_is_used_again_before_it_is_revoked"),
    ),
    Bug(
        "incomplete-pass-frees",
        "what a pass could not revoke is used again all the same",
        (("allocator.c", "bool has_more = is_revoked;", "bool has_more = true;"),),
        Node(f"{QUARANTINE}::test_a_pass_that_does_not_complete"),
    ),
    Bug(
        "unmapped-twice",
        "what was unmapped is given out again, and may be somebody else's by then",
        (("allocator.c", "    if (!is_unmapped) {", "    if (true) {"),),
        Program("allocator"),
        (Node(f"{HEAP_THREADS}::test_a_mapping_that_is_freed_while_another_is_unmapped"),),
    ),
    Bug(
        "never-unmapped",
        "what could not be unmapped once is forgotten",
        (("allocator.c", "        slot_put_back(slot);\n", ""),),
        Program("allocator"),
    ),
    Bug(
        "child-in-its-parents-pass",
        "in a child a pass is under way that nobody ends: its quarantine grows for ever",
        (("process.c", "    allocator_start_child();\n", ""),),
        Program("allocator"),
    ),
    Bug(
        "sweep-skips-registers",
        "what a program holds in variables survives a revocation",
        (
            (
                "revoke.c",
                "    register_file_sweep(&revocation.shadow, &revocation.counts.tags);\n    sweep_private",
                "    sweep_private",
            ),
        ),
        Node(f"{REVOCATION}::test_row_73_lightly"),
    ),
    Bug(
        "sweep-skips-private-memory",
        "what a program holds in its own memory survives a revocation",
        (
            ("revoke.c", "    sweep_private_memory();\n    revocation.passes", "    revocation.passes"),
            (
                "revoke.c",
                "static void sweep_private_memory",
                "__attribute__((unused)) static void sweep_private_memory",
            ),
        ),
        Node(f"{REVOCATION}::test_row_94_malloc_revoke"),
    ),
    Bug(
        "sweep-skips-read-only-pages",
        "what lies in a page that may not be written survives a revocation",
        (("revoke.c", "if (region == own) {", "if (region == own && (entry & PAGE_WRITE)) {"),),
        Node(f"{REVOCATION}::test_read_only_pages_are_swept"),
    ),
    Bug(
        "sweep-skips-private-views",
        "what a child sees of its parent's object by MAP_PRIVATE survives the child's revocation",
        (
            (
                "private.c",
                "        if (!is_page_revoked(region, page, shadow))\n            continue;",
                "        if (true || !is_page_revoked(region, page, shadow))\n            continue;",
            ),
        ),
        Node(f"{REVOCATION}::test_private_views_of_another_owners_object_are_swept"),
    ),
    Bug(
        "stopped-means-safe",
        "who is stopped by SIGSTOP inside an operation counts as stopped: it stores the revoked value when it goes on",
        (
            (
                "gate.c",
                "        if (is_last)\n            return false;",
                "        if (is_last)\n            return true;",
            ),
        ),
        Node(f"{REVOCATION_FAULTS}::test_stopped_at_every_step"),
    ),
    Bug(
        "run-out-takes-signals",
        "a process that is run out of an operation keeps all signals from itself afterwards",
        (("run_out.c", "        restore_signals(thread, blocked);\n", "        (void)restore_signals;\n"),),
        Node("tests/faults/test_run_out.py::test_signals_wait_until_it_goes_on"),
    ),
    Bug(
        "halted-goes-on",
        "the handler says that its thread has halted, and lets it go on",
        (
            (
                "gate.c",
                "           atomic_load(&self->gate->signal) == signal && !is_abandoned",
                "           0 && !is_abandoned",
            ),
        ),
        Node("tests/faults/test_stoppers.py::test_who_is_halted_does_nothing"),
    ),
    Bug(
        "a-dead-brokers-gate-opens",
        "operations go on after a broker that died amid a pass: nobody knows what was swept",
        (("gate.c", "closer == atomic_load(&gate->keeper) || (owner", "(owner"),),
        Node(f"{REVOCATION_FAULTS}::test_the_broker_is_killed_during_a_pass"),
    ),
    Bug(
        "child-counts-its-parents-passes",
        "a child that begins with the number of its parent's passes does not sweep for its own",
        (("revoke.c", "    revocation.passes = passes_of_child;", "    revocation.passes = passes_of_child + 1;"),),
        Node(f"{REVOCATION}::test_a_child_revokes_its_own_quarantine"),
    ),
    Bug(
        "paint-cleared-before-the-sweep",
        "a process that has slept over a pass clears its paint before it sweeps its own with it",
        (
            (
                "revoke.c",
                """    const enum status entered = process_enter();
    if (entered != STATUS_OK)
        return refuse(entered, 0, 0);
    enum status status = STATUS_OK;
    for (size_t i = 0; i < count &&""",
                """    enum status status = STATUS_OK;
    for (size_t i = 0; i < count &&""",
            ),
        ),
        Node(f"{ASLEEP}::test_a_sleeper_clears_its_paint_last"),
    ),
    Bug(
        "a-child-begins-without-paint",
        "the shadow is not copied at fork: what waits in quarantine is not revoked in the child",
        (("revoke.c", " && !copy_paint())", " && false)"),),
        Node(f"{REVOCATION}::test_paint_of_a_child_is_its_own"),
        (Node(f"{REVOCATION}::test_F24_an_open_epoch_is_inherited"),),
    ),
    Bug(
        "sweep-skips-unmapped-objects",
        "what hides in an object that is mapped nowhere survives a revocation",
        (),
        Node(f"{REVOCATION}::test_row_92_unmapped_hoard"),
        (Node(ATTACK),),
        modules=(
            (
                "capshm/broker/revocation/passes.py",
                "if sideband is not None and (",
                """if sideband is not None and any(
                entry.object is memory
                for member in self.state.members.values()
                for entry in member.space.overlapping(member.space.arena_start, member.space.arena_end)
            ) and (""",
            ),
        ),
    ),
    Bug(
        "sweep-skips-objects-in-flight",
        "what hides in an object whose only descriptor lies in a socket survives a revocation",
        (),
        Node(f"{REVOCATION}::test_J5_closed_hoard_in_flight"),
        (Node(ATTACK),),
        modules=(
            (
                "capshm/broker/revocation/passes.py",
                "if sideband is not None and (",
                """if sideband is not None and (
                memory.id in self.state.segments.sizes(member.pid for member in self.state.members.values())
            ) and (""",
            ),
        ),
    ),
    Bug(
        "an-incomplete-pass-closes-the-epoch",
        "the epoch counts as closed though somebody could not be stopped: what was freed is used again",
        (),
        Node(f"{ASLEEP}::test_malloc_keeps_what_could_not_be_revoked"),
        modules=(
            (
                "capshm/broker/revocation/requests.py",
                "            member.part.clock.give_up()\n",
                """            member.part.clock.close()
            state.parts.records.publish(member.part.record, member.part.clock.epochs)
""",
            ),
        ),
    ),
    Bug(
        "an-open-epoch-clears-what-it-finds-painted",
        "what was painted while an epoch was open counts as revoked when that one closes",
        (),
        Node("tests/unit/test_model_revocation.py"),
        modules=(("capshm/model/epochs.py", "needed = then + (then & 1) + 2", "needed = then + 2 - (then & 1)"),),
    ),
    Bug(
        "origin-of-the-storer",
        "who stores somebody else's value makes it its own: its origin's revocation passes it over",
        (("line.h", "origin != 0 ? origin : region->own_origin", "region->own_origin + (origin & 0)"),),
        Node(f"{ORIGINS}::test_a_value_stored_again_by_somebody_else_is_still_the_first_ones"),
    ),
    Bug(
        "dead-origin-kept",
        "what belongs to an address space that is gone stays in objects: nobody is left to revoke it",
        (("origin.c", "return (struct judgement){origin, is_gone,", "return (struct judgement){origin, false,"),),
        Node(f"{ORIGINS}::test_a_dead_origin_takes_its_values_along"),
    ),
    Bug(
        "stamp-ignored-by-sleepers",
        "who wakes after a pass keeps the copies of others' values that it has revoked",
        (
            (
                "origin.c",
                "= last_revocation(record, value) > passes;",
                "= last_revocation(record, value) > UINT32_MAX + passes;",
            ),
        ),
        Node(f"{ORIGINS}::test_who_sleeps_loses_what_was_revoked_meanwhile_and_no_more"),
    ),
    Bug(
        "ever-revoked-not-asked",
        "a value from before a fork leads the child to memory that it has revoked",
        (("origin.c", "if (last_revocation(revocation.record, *value) != 0) {", "if (false) {"),),
        Node(f"{ORIGINS}::test_a_value_from_before_a_fork_never_leads_to_what_the_child_has_revoked"),
    ),
]
