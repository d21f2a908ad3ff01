/* slots.c: spans, size classes, and the tables that find them. */
#include "slots.h"

#include <stdlib.h>
#include <sys/mman.h>

#include "page_table.h"

enum {
    /* Classes: multiples of 16 up to 128, four to a doubling up to 2 KiB, then doublings: larger bounds can be represented
     * only where they are aligned. */
    FIRST_QUARTERED = 8,
    FIRST_DOUBLED = 24,
    SMALLEST_CHUNK = 64 << 10,
    LARGEST_CHUNK = 2 << 20,
    SLOTS_IN_CHUNK = 64, /* at least */
    SPAN_SHIFT = 15,     /* no span is shorter */
};
static const uint32_t LIVE = UINT32_MAX;
static const uint32_t QUARANTINED = UINT32_MAX - 1;
static const uint32_t TAKEN_OUT = UINT32_MAX - 2; /* every lower word: free, and the next free slot + 1, 0 for none */

static struct slots {
    struct span *spans;
    uint32_t *span_numbers; /* for each page of the arena its span's number + 1; of mappings, only the first page */
    uint32_t span_count; /* no span from here on was ever used */
    struct span *free_spans;
    struct span *unused_mappings;
    struct class {
        struct span *open; /* spans with a free slot; only the first is taken from, so only it becomes full */
        uint64_t bytes; /* of all its chunks */
    } classes[SLOT_CLASSES];
} slots;

static uint32_t class_of(uint64_t length) {
    if (length <= FIRST_QUARTERED * GRANULE_SIZE)
        return (uint32_t)(length - 1) / GRANULE_SIZE;
    const uint32_t doubling = 63 - (uint32_t)__builtin_clzll(length - 1); /* 2^doubling < length <= 2^(doubling + 1) */
    if (doubling < 11)
        return FIRST_QUARTERED + (doubling - 7) * 4 + ((uint32_t)(length - 1) >> (doubling - 2) & 3);
    return FIRST_DOUBLED + doubling - 11;
}

uint64_t slot_size_for(uint64_t length) {
    const uint32_t number = class_of(length);
    if (number < FIRST_QUARTERED)
        return (uint64_t)(number + 1) * GRANULE_SIZE;
    if (number < FIRST_DOUBLED)
        return (uint64_t)(5 + number % 4) << (5 + (number - FIRST_QUARTERED) / 4);
    return (uint64_t)4096 << (number - FIRST_DOUBLED);
}

uint64_t slots_chunk_size(uint64_t length) {
    const uint64_t least = slot_size_for(length) * SLOTS_IN_CHUNK;
    const uint64_t present = slots.classes[class_of(length)].bytes;
    const uint64_t wanted = present < LARGEST_CHUNK ? present : LARGEST_CHUNK;
    const uint64_t size = wanted > least ? wanted : least;
    return size > SMALLEST_CHUNK ? size : SMALLEST_CHUNK;
}

static void *reserve(size_t size) {
    void *const memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? NULL : memory;
}

static size_t spans_size(void) {
    return (address_space.arena_size >> SPAN_SHIFT) * sizeof *slots.spans;
}

static size_t span_numbers_size(void) {
    return (address_space.arena_size >> PAGE_SHIFT) * sizeof *slots.span_numbers;
}

static bool has_tables(void) {
    if (slots.spans == NULL)
        slots.spans = reserve(spans_size());
    if (slots.span_numbers == NULL)
        slots.span_numbers = reserve(span_numbers_size());
    return slots.spans != NULL && slots.span_numbers != NULL;
}

static uint64_t page_number(uint64_t address) {
    return (address - address_space.arena_base) >> PAGE_SHIFT;
}

/* Has the table find the span, or with 0 nothing, in its place. */
static void set_pages(const struct span *span, uint32_t number) {
    const uint64_t bytes = span->slot_count == 1 ? 1 : span->slot_size * span->slot_count;
    const uint64_t end = page_number(span->base + bytes - 1) + 1;
    for (uint64_t page = page_number(span->base); page < end; page++)
        slots.span_numbers[page] = number;
}

static void open_span(struct span *span) {
    struct class *const class = &slots.classes[class_of(span->slot_size)];
    span->next = class->open;
    class->open = span;
}

static bool is_full(const struct span *span) {
    return span->first_free == 0 && span->slots_used == span->slot_count;
}

static struct slot take_from(struct span *span) {
    struct slot slot = {span, span->slots_used};
    if (span->first_free != 0) {
        slot.number = span->first_free - 1;
        span->first_free = span->states[slot.number];
    } else {
        span->slots_used++;
    }
    span->states[slot.number] = LIVE;
    return slot;
}

struct slot slots_take(uint64_t length) {
    if (length > SLOT_LARGEST_IN_CHUNK)
        return (struct slot){0};
    struct class *const class = &slots.classes[class_of(length)];
    if (class->open == NULL)
        return (struct slot){0};
    const struct slot slot = take_from(class->open);
    if (is_full(slot.span))
        class->open = slot.span->next;
    return slot;
}

struct slot slots_add(uint64_t base, uint64_t slot_size, uint32_t slot_count, uint32_t memory, uint32_t *states) {
    if (!has_tables())
        return (struct slot){0};
    struct span *span = slots.free_spans;
    if (span != NULL)
        slots.free_spans = span->next;
    else
        span = &slots.spans[slots.span_count++]; /* there are as many as the arena has room for */
    *span = (struct span){.base = base, .slot_size = slot_size, .slot_count = slot_count, .memory = memory};
    span->states = states != NULL ? states : &span->only_state;
    set_pages(span, (uint32_t)(span - slots.spans) + 1);
    if (slot_size > SLOT_LARGEST_IN_CHUNK)
        return take_from(span);
    slots.classes[class_of(slot_size)].bytes += slot_size * slot_count;
    open_span(span);
    return slots_take(slot_size);
}

struct slot slots_find(uint64_t address) {
    const uint64_t offset = address - address_space.arena_base;
    if (slots.span_numbers == NULL || offset >= address_space.arena_size)
        return (struct slot){0};
    const uint32_t span_number = slots.span_numbers[offset >> PAGE_SHIFT];
    if (span_number == 0)
        return (struct slot){0};
    struct span *const span = &slots.spans[span_number - 1];
    const uint64_t number = (address - span->base) / span->slot_size;
    const bool is_slot = number < span->slots_used && span->base + number * span->slot_size == address;
    return is_slot ? (struct slot){span, (uint32_t)number} : (struct slot){0};
}

enum slot_state slot_state(struct slot slot) {
    const uint32_t state = slot.span->states[slot.number];
    return state == LIVE ? SLOT_LIVE : state == QUARANTINED ? SLOT_QUARANTINED : SLOT_FREE;
}

void slot_set_quarantined(struct slot slot) {
    slot.span->states[slot.number] = QUARANTINED;
}

static void add_unused(struct span *span) {
    span->next = slots.unused_mappings;
    slots.unused_mappings = span;
}

void slot_set_free(struct slot slot) {
    struct span *const span = slot.span;
    const bool was_full = is_full(span);
    span->states[slot.number] = span->first_free;
    span->first_free = slot.number + 1;
    if (slot_is_mapping(slot)) {
        set_pages(span, 0);
        add_unused(span);
    } else if (was_full) {
        open_span(span);
    }
}

bool slots_has_unused(void) {
    return slots.unused_mappings != NULL;
}

struct slot slots_take_unused(void) {
    struct span *const span = slots.unused_mappings;
    if (span == NULL)
        return (struct slot){0};
    slots.unused_mappings = span->next;
    span->only_state = TAKEN_OUT;
    return (struct slot){span, 0};
}

struct slot slots_find_taken(uint32_t span_number) {
    const bool is_taken = span_number < slots.span_count && slots.spans[span_number].only_state == TAKEN_OUT;
    return is_taken ? (struct slot){&slots.spans[span_number], 0} : (struct slot){0};
}

uint32_t slot_span_number(struct slot slot) {
    return (uint32_t)(slot.span - slots.spans);
}

void slot_put_back(struct slot slot) {
    slot.span->only_state = 0;
    add_unused(slot.span);
}

void slot_drop(struct slot slot) {
    *slot.span = (struct span){.next = slots.free_spans};
    slots.free_spans = slot.span;
}

void slots_forget(void (*release)(uint32_t memory)) {
    for (uint32_t number = 0; number < slots.span_count; number++) {
        struct span *const span = &slots.spans[number];
        if (span->slot_count == 0)
            continue; /* free */
        release(span->memory);
        if (span->states != &span->only_state)
            free(span->states);
    }
    if (slots.spans != NULL)
        munmap(slots.spans, spans_size());
    if (slots.span_numbers != NULL)
        munmap(slots.span_numbers, span_numbers_size());
    slots = (struct slots){0};
}
