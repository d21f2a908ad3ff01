/* image.c: objects, and rounds over them (image.h). */
#include "image.h"

#include "driver_program.h"

enum { WORD = 64 };

static uint64_t word_of(const uint8_t *bits, uint64_t number) {
    uint64_t word;
    memcpy(&word, bits + number * sizeof word, sizeof word); /* they come from Python, and are aligned for nothing */
    return word;
}

static uint64_t words_of(const struct image *image) {
    return image->pages * (IMAGE_PAGE_GRANULES / WORD);
}

/* Goes through the bits that are set, from the lowest on. */
struct cursor {
    const uint8_t *bits;
    uint64_t next; /* word */
    uint64_t end;
    uint64_t word; /* what is left of the one before next */
};

static struct cursor over(const struct image *image, const uint8_t *bits) {
    return (struct cursor){.bits = bits, .end = words_of(image)};
}

static bool next_granule(struct cursor *cursor, uint64_t *granule) {
    while (cursor->word == 0) {
        if (cursor->next == cursor->end)
            return false;
        cursor->word = word_of(cursor->bits, cursor->next++);
    }
    *granule = (cursor->next - 1) * WORD + (unsigned)__builtin_ctzll(cursor->word);
    cursor->word &= cursor->word - 1;
    return true;
}

/* Granules of the object that begins there. */
static uint64_t object_size(const struct image *image, uint64_t first) {
    const uint64_t page_end = (first / IMAGE_PAGE_GRANULES + 1) * IMAGE_PAGE_GRANULES;
    uint64_t number = first / WORD;
    uint64_t word = word_of(image->begins, number) & ~UINT64_C(1) << first % WORD;
    while (word == 0) {
        if (++number == page_end / WORD)
            return page_end - first;
        word = word_of(image->begins, number);
    }
    return number * WORD + (unsigned)__builtin_ctzll(word) - first;
}

static bool is_freed(uint64_t object, uint64_t seed) {
    return chance(seed, object) % IMAGE_SHARE == 0;
}

static uint64_t place_of(const struct image *image, uint64_t granule) {
    return image->offset + granule * GRANULE_SIZE;
}

/* As an allocator does that hands a pointer out: one with SW_VMEM would not be revoked. */
static enum status without_vmem(const struct program *program, struct pointer pointer) {
    return is_plain(program) ? STATUS_OK
                             : capshm_with_permissions(pointer.held, ~(uint32_t)PERMISSION_SW_VMEM, pointer.held);
}

static enum status store_target(const struct program *program, const struct image *image, uint64_t granule,
                                uint64_t target, struct pointer with) {
    TRY(derive(program, place_of(image, target), object_size(image, target) * GRANULE_SIZE, &with));
    TRY(without_vmem(program, with));
    return store(program, whole_area(program->area), place_of(image, granule), with);
}

/* Where the pointer leads, counted from where the area begins. */
static enum status read_address(const struct program *program, struct pointer pointer, uint64_t *address) {
    if (is_plain(program)) {
        *address = pointer.plain.address;
        return STATUS_OK;
    }
    struct capability_register found;
    struct capability_register whole;
    TRY(capshm_inspect(pointer.held, &found));
    TRY(capshm_inspect(program->area->authority, &whole));
    *address = found.value.address - whole.value.address;
    return STATUS_OK;
}

uint64_t image_find_objects(struct image *image) {
    struct cursor tagged = over(image, image->bits);
    uint64_t granule;
    uint64_t count = 0;
    for (const uint32_t *target = image->targets; next_granule(&tagged, &granule); target++) {
        const uint8_t bit = (uint8_t)(1u << *target % 8);
        count += (image->begins[*target / 8] & bit) == 0;
        image->begins[*target / 8] |= bit;
    }
    return count;
}

enum status image_fill(struct driver_area *area, const struct image *image, struct driver_counts *counts) {
    const struct program program = program_in(area, counts);
    struct cursor tagged = over(image, image->bits);
    uint64_t granule;
    for (const uint32_t *target = image->targets; next_granule(&tagged, &granule); target++)
        TRY(store_target(&program, image, granule, *target, pointer_in(area, FIRST)));
    return STATUS_OK;
}

uint64_t image_free(const struct image *image, uint64_t seed, uint64_t address, struct image_range *ranges) {
    struct cursor objects = over(image, image->begins);
    uint64_t object;
    uint64_t count = 0;
    while (next_granule(&objects, &object)) {
        if (!is_freed(object, seed))
            continue;
        const uint64_t start = address + place_of(image, object);
        const uint64_t length = object_size(image, object) * GRANULE_SIZE;
        if (count != 0 && ranges[count - 1].start + ranges[count - 1].length == start)
            ranges[count - 1].length += length;
        else
            ranges[count++] = (struct image_range){start, length};
    }
    return count;
}

enum status image_work(struct driver_area *area, const struct image *image, uint64_t seed,
                       struct driver_counts *counts) {
    const struct program program = program_in(area, counts);
    struct cursor tagged = over(image, image->bits);
    uint64_t granule;
    for (const uint32_t *target = image->targets; next_granule(&tagged, &granule); target++) {
        if (is_freed(*target, seed)) {
            TRY(store_target(&program, image, granule, *target, pointer_in(area, FIRST)));
        } else {
            struct pointer pointer = pointer_in(area, FIRST);
            uint64_t address;
            TRY(load(&program, whole_area(area), place_of(image, granule), &pointer));
            TRY(read_address(&program, pointer, &address));
            counts->checksum += mixed(mixed(granule) + address);
        }
        counts->operations++;
    }
    return STATUS_OK;
}
