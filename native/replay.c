/* replay.c: the loop of replay.h, and what an allocation is in each of its two worlds. */
#include "replay.h"

#include <stdlib.h>

#include "capshm.h"
#include "compiler.h"

/* What a program does with its memory, in one world. *is_done: the event is over, though the caller may have to do
 * something for the allocator. */
struct world {
    enum status (*allocate)(struct replay *it, uint32_t number, uint64_t size, bool *is_done);
    enum status (*give_back)(struct replay *it, uint32_t number, bool *is_done);
    enum status (*resize)(struct replay *it, uint32_t number, uint64_t size, bool *is_done);
};

/* An allocation holds a pointer at least. */
static uint64_t at_least_granule(uint64_t size) {
    return size < GRANULE_SIZE ? GRANULE_SIZE : size;
}

/* The allocation that the new one points to: itself if it is the only one. */
static uint32_t before(const struct replay *it, uint32_t number) {
    return it->slots[it->newest].is_live ? it->newest : number;
}

/* How many of the granules of an allocation have that pointer; the first, and every so many. */
static uint64_t pointers_in(const struct replay *it, uint64_t size) {
    const uint64_t pointers = (uint64_t)((double)(size / GRANULE_SIZE) * it->density);
    return pointers == 0 ? 1 : pointers;
}

static uint64_t pointer_place(uint64_t size, uint64_t pointers, uint64_t which) {
    return which * (size / GRANULE_SIZE) / pointers * GRANULE_SIZE;
}

/* Emulated --------------------------------------------------------------------------------------------------------- */

static enum status take(struct replay *it, uint64_t size) {
    const enum status status = it->is_taken ? STATUS_OK : capshm_allocator_take(size, it->registers + REPLAY_NEW);
    it->is_taken = false;
    return status;
}

/* The first granule has a pointer, and nothing else. */
static enum status write_end(struct replay *it, uint32_t allocation, uint64_t size) {
    const uint8_t byte = (uint8_t)size;
    return size > GRANULE_SIZE ? capshm_write(it->registers + allocation, size - 1, &byte, 1) : STATUS_OK;
}

static enum status read_end(struct replay *it, uint32_t allocation, uint64_t size) {
    uint8_t byte = 0;
    const enum status status =
        size > GRANULE_SIZE ? capshm_read(it->registers + allocation, size - 1, &byte, 1) : STATUS_OK;
    it->checksum += byte;
    return status;
}

static enum status load_from_table(struct replay *it, uint32_t number, uint32_t into) {
    return capshm_load(it->table, (uint64_t)number * GRANULE_SIZE, it->registers + into);
}

static enum status store_in_table(struct replay *it, uint32_t number) {
    return capshm_store(it->table, (uint64_t)number * GRANULE_SIZE, it->registers + REPLAY_NEW);
}

static enum status emulated_allocate(struct replay *it, uint32_t number, uint64_t size, bool *is_done) {
    enum status status = take(it, size);
    if (status == STATUS_OK)
        status = store_in_table(it, number);
    if (status == STATUS_OK)
        status = load_from_table(it, before(it, number), REPLAY_OTHER);
    const uint64_t pointers = pointers_in(it, size);
    for (uint64_t which = 0; which < pointers && status == STATUS_OK; which++)
        status = capshm_store(it->registers + REPLAY_NEW, pointer_place(size, pointers, which),
                              it->registers + REPLAY_OTHER);
    if (status == STATUS_OK)
        status = write_end(it, REPLAY_NEW, size);
    *is_done = status == STATUS_OK;
    return status;
}

/* With the capability in REPLAY_OLD. */
static enum status give_back_old(struct replay *it, bool *is_done) {
    const enum status status = capshm_allocator_give_back(it->registers + REPLAY_OLD);
    *is_done = status == STATUS_OK || status == STATUS_MEMORY_UNUSED || status == STATUS_REVOCATION_DUE;
    return status;
}

static enum status emulated_give_back(struct replay *it, uint32_t number, bool *is_done) {
    enum status status = load_from_table(it, number, REPLAY_OLD);
    if (status == STATUS_OK)
        status = capshm_load(it->registers + REPLAY_OLD, 0, it->registers + REPLAY_OTHER);
    if (status == STATUS_OK)
        status = read_end(it, REPLAY_OLD, it->slots[number].length);
    return status == STATUS_OK ? give_back_old(it, is_done) : status;
}

static enum status emulated_resize(struct replay *it, uint32_t number, uint64_t size, bool *is_done) {
    const uint64_t length = it->slots[number].length;
    enum status status = load_from_table(it, number, REPLAY_OLD);
    if (status == STATUS_OK)
        status = it->is_taken ? STATUS_MUST_MOVE : capshm_allocator_resize(it->registers + REPLAY_OLD, size);
    if (status == STATUS_OK) { /* it stays where it is */
        status = write_end(it, REPLAY_OLD, size);
        *is_done = status == STATUS_OK;
    }
    if (status != STATUS_MUST_MOVE)
        return status;
    status = take(it, size);
    if (status == STATUS_OK)
        status = capshm_copy(it->registers + REPLAY_OLD, it->registers + REPLAY_NEW, size < length ? size : length);
    if (status == STATUS_OK)
        status = write_end(it, REPLAY_NEW, size);
    if (status == STATUS_OK)
        status = store_in_table(it, number);
    return status == STATUS_OK ? give_back_old(it, is_done) : status;
}

static const struct world emulated = {emulated_allocate, emulated_give_back, emulated_resize};

/* Plain ------------------------------------------------------------------------------------------------------------ */

/* Accesses that a compiler cannot leave out. */
static void store_end(char *memory, uint64_t size) {
    if (size > GRANULE_SIZE)
        *(volatile uint8_t *)&memory[size - 1] = (uint8_t)size;
}

static uint8_t load_end(const char *memory, uint64_t size) {
    return size > GRANULE_SIZE ? *(const volatile uint8_t *)&memory[size - 1] : 0;
}

static enum status plain_allocate(struct replay *it, uint32_t number, uint64_t size, bool *is_done) {
    char *const memory = malloc(size);
    if (memory == NULL)
        return STATUS_NO_MEMORY;
    it->pointers[number] = memory;
    const uint64_t pointers = pointers_in(it, size);
    for (uint64_t which = 0; which < pointers; which++)
        *(void *volatile *)(memory + pointer_place(size, pointers, which)) = it->pointers[before(it, number)];
    store_end(memory, size);
    *is_done = true;
    return STATUS_OK;
}

static enum status plain_give_back(struct replay *it, uint32_t number, bool *is_done) {
    char *const memory = it->pointers[number];
    (void)*(void *volatile *)memory;
    it->checksum += load_end(memory, it->slots[number].length);
    free(memory);
    *is_done = true;
    return STATUS_OK;
}

static enum status plain_resize(struct replay *it, uint32_t number, uint64_t size, bool *is_done) {
    char *const memory = realloc(it->pointers[number], size);
    if (memory == NULL)
        return STATUS_NO_MEMORY;
    it->pointers[number] = memory;
    store_end(memory, size);
    *is_done = true;
    return STATUS_OK;
}

static const struct world plain = {plain_allocate, plain_give_back, plain_resize};

/* Both ------------------------------------------------------------------------------------------------------------- */

/* exec: the old program's memory is gone. */
static enum status give_back_all(struct replay *it, const struct world *world, bool *is_done) {
    for (; it->first_left < it->slot_count; it->first_left++) {
        const uint32_t number = it->first_left;
        if (!it->slots[number].is_live)
            continue;
        bool is_given_back = false;
        const enum status status = world->give_back(it, number, &is_given_back);
        it->slots[number].is_live = !is_given_back;
        if (status != STATUS_OK)
            return status;
    }
    it->first_left = 0;
    *is_done = true;
    return STATUS_OK;
}

ALWAYS_INLINE enum status allocate(struct replay *it, const struct world *world, const struct replay_event *event,
                                   bool *is_done) {
    const uint64_t size = at_least_granule(event->size);
    const enum status status = world->allocate(it, event->number, size, is_done);
    if (*is_done) {
        it->slots[event->number] = (struct replay_slot){.length = size, .is_live = true};
        it->newest = event->number;
    }
    return status;
}

ALWAYS_INLINE enum status change(struct replay *it, const struct world *world, const struct replay_event *event,
                                 bool *is_done) {
    struct replay_slot *const slot = &it->slots[event->number];
    if (event->kind == REPLAY_FREE) {
        const enum status status = world->give_back(it, event->number, is_done);
        slot->is_live = !*is_done;
        return status;
    }
    const uint64_t size = at_least_granule(event->size);
    const enum status status = world->resize(it, event->number, size, is_done);
    if (*is_done)
        slot->length = size;
    return status;
}

ALWAYS_INLINE enum status work(struct replay *it, const struct world *world, const struct replay_event *event,
                               bool *is_done) {
    if (event->kind == REPLAY_EXEC)
        return give_back_all(it, world, is_done);
    const bool is_new = event->kind == REPLAY_ALLOCATE;
    if (event->kind > REPLAY_RESIZE || event->number >= it->slot_count || it->slots[event->number].is_live == is_new)
        return STATUS_INVALID;
    const enum status status = is_new ? allocate(it, world, event, is_done) : change(it, world, event, is_done);
    it->operations += *is_done;
    return status;
}

/* Inlined for each world, so that neither pays for the choice. */
ALWAYS_INLINE enum status run(struct replay *it, const struct world *world) {
    while (it->position < it->count) {
        const struct replay_event *const event = &it->events[it->position];
        if (event->kind == REPLAY_FORK || event->kind == REPLAY_WAIT)
            break;
        bool is_done = false;
        const enum status status = work(it, world, event, &is_done);
        it->position += is_done;
        if (status != STATUS_OK)
            return status;
    }
    return STATUS_OK;
}

enum status replay_run(struct replay *replay) {
    return replay->pointers == NULL ? run(replay, &emulated) : run(replay, &plain);
}
