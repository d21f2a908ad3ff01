/* copy.c: copies that keep tags where they may.
 *
 * Like a memmove that is written with capability loads and stores: where source and destination are congruent modulo
 * 16, whole granules travel with their tags and origins; the rest, and everything else, travels as bytes and arrives untagged.
 * Overlapping ranges of the same mapping come out as if the source had been copied away first. A tagged granule that
 * may not be stored faults as a store of it would, and what lies before it (behind it, in a copy that runs downwards)
 * is done.
 */
#include "capshm.h"
#include "checks.h"
#include "origin.h"
#include "private.h"
#include "program.h"

struct copy {
    uint32_t from;
    uint32_t to;
    uint64_t source;
    uint64_t destination;
    uint64_t length; /* what is left */
    bool is_downwards;
};

/* The next piece: bytes from offset on; whole granules of one line on either side, or bytes without tags. */
struct piece {
    uint64_t offset;
    uint32_t length;
    bool is_granules;
};

/* Where a piece stopped, and through whose authority. */
struct outcome {
    struct line_place place;
    enum line_result result;
    uint32_t authority;
    uint64_t address;
};

static uint32_t smaller(uint64_t left, uint64_t right) {
    return (uint32_t)(left < right ? left : right);
}

/* granules: at most so many at once. */
static struct piece next_piece(const struct copy *copy, uint32_t granules) {
    /* Upwards a piece begins at the first byte and is measured to the ends of granule and lines; downwards it ends
     * behind the last byte and is measured to their beginnings. */
    const uint64_t source = copy->is_downwards ? copy->source + copy->length : copy->source;
    const uint64_t destination = copy->is_downwards ? copy->destination + copy->length : copy->destination;
    const uint64_t sign = copy->is_downwards ? 1 : (uint64_t)-1;
    const uint32_t to_granule = sign * source % GRANULE_SIZE;
    const uint32_t to_line =
        smaller((sign * source - 1) % LINE_DATA_SIZE, (sign * destination - 1) % LINE_DATA_SIZE) + 1;
    const bool is_congruent = (source ^ destination) % GRANULE_SIZE == 0;
    const bool is_granules = is_congruent && to_granule == 0 && copy->length >= GRANULE_SIZE;
    uint32_t length = smaller(copy->length, to_line);
    if (is_granules)
        length = smaller(length & ~(uint32_t)(GRANULE_SIZE - 1), granules * GRANULE_SIZE);
    else if (is_congruent && to_granule != 0)
        length = smaller(length, to_granule);
    return (struct piece){copy->is_downwards ? copy->length - length : 0, length, is_granules};
}

/* Both authorities, for all that is left. */
static enum status check_authorities(const struct copy *copy) {
    const struct capability_register *const from = register_ready(copy->from);
    const struct capability_register *const to = register_ready(copy->to);
    if (!has_rights(from, PERMISSION_LOAD) || !is_in_bounds(from, copy->source, copy->length))
        return explain_refusal(copy->from, copy->source, copy->length, PERMISSION_LOAD);
    if (!has_rights(to, PERMISSION_STORE) || !is_in_bounds(to, copy->destination, copy->length))
        return explain_refusal(copy->to, copy->destination, copy->length, PERMISSION_STORE);
    return STATUS_OK;
}

static enum status copy_granules(const struct copy *copy, const struct piece *piece, struct outcome *outcome) {
    const uint64_t source = copy->source + piece->offset;
    const uint64_t destination = copy->destination + piece->offset;
    const uint32_t count = piece->length >> GRANULE_SHIFT;
    struct capability_register values[LINE_GRANULES];
    uint64_t tagged;
    uint32_t done;
    outcome->authority = copy->from;
    outcome->address = source;
    enum status status = place_load(&register_file[copy->from], copy->from, source, count, &outcome->place);
    if (status != STATUS_OK)
        return status;
    outcome->result = line_load(outcome->place, &values[0].value, sizeof values[0], &tagged);
    if (outcome->result != LINE_DONE)
        return STATUS_OK;
    tagged = origin_admit(outcome->place.region, values, sizeof values[0], tagged);
    for (uint32_t i = 0; i < count; i++)
        values[i].rights = (tagged >> i & 1) ? RIGHT_TAG : 0;
    outcome->authority = copy->to;
    status = judge_values(&register_file[copy->to], copy->to, destination, values, sizeof values[0], count, &tagged);
    if (status == STATUS_OK)
        status = store_in_page(copy->to, destination, (const char *)&values[0].value, sizeof values[0], count, tagged,
                               &outcome->place, &outcome->result, &done);
    outcome->address = destination + (status == STATUS_OK ? (uint64_t)done << GRANULE_SHIFT : 0);
    return status;
}

static enum status copy_bytes(const struct copy *copy, const struct piece *piece, struct outcome *outcome) {
    const uint64_t source = copy->source + piece->offset;
    const uint64_t destination = copy->destination + piece->offset;
    const uint64_t source_entry = page_table_look_up(source);
    const uint64_t entry = page_table_look_up(destination);
    char bytes[LINE_DATA_SIZE];
    if (!(source_entry & PAGE_READ))
        return refuse_page(copy->from, source, source_entry);
    if (!(entry & PAGE_WRITE))
        return refuse_write(copy->to, destination, entry);
    outcome->authority = copy->from;
    outcome->address = source;
    outcome->result = program_copy(bytes, (const void *)source, piece->length) ? LINE_DONE : LINE_FAULTED;
    if (outcome->result != LINE_DONE)
        return STATUS_OK;
    const uint64_t first = destination & ~(uint64_t)(GRANULE_SIZE - 1);
    const uint64_t last = (destination + piece->length - 1) & ~(uint64_t)(GRANULE_SIZE - 1);
    outcome->place = line_place_of(page_table_region(entry), first, (uint32_t)((last - first) >> GRANULE_SHIFT) + 1);
    outcome->authority = copy->to;
    outcome->address = destination;
    outcome->result = line_clear(outcome->place);
    if (outcome->result == LINE_DONE)
        outcome->result = write_bytes(destination, bytes, piece->length);
    return STATUS_OK;
}

static enum status copy_piece(const struct copy *copy, const struct piece *piece, uint64_t *waited) {
    const enum status entered = process_enter();
    if (entered != STATUS_OK)
        return refuse(entered, copy->from, copy->source);
    struct outcome outcome = {.result = LINE_DONE};
    enum status status = check_authorities(copy);
    if (status == STATUS_OK && piece->length > 0)
        status = (piece->is_granules ? copy_granules : copy_bytes)(copy, piece, &outcome);
    if (status == STATUS_OK && outcome.result != LINE_DONE)
        return leave_unfinished(outcome.place, outcome.result, outcome.authority, outcome.address, waited);
    return leave_refused(status, copy->to);
}

enum status capshm_copy(uint32_t from, uint32_t to, uint64_t length) {
    if (!register_is_valid(from, 1) || !register_is_valid(to, 1))
        return STATUS_INVALID;
    struct copy copy = {from, to, register_file[from].value.address, register_file[to].value.address, length, false};
    copy.is_downwards = copy.destination - copy.source < length; /* the destination begins inside the source */
    uint64_t waited = 0;
    uint32_t step = LINE_GRANULES;
    for (;;) {
        const struct piece piece = next_piece(&copy, step);
        const enum status status = copy_piece(&copy, &piece, &waited);
        if (status == STATUS_AGAIN)
            continue;
        if (status != STATUS_OK && step > 1 && is_about_value(status)) {
            step = 1; /* one by one, so that all before the refused value is copied */
            continue;
        }
        if (status != STATUS_OK)
            return status;
        copy.length -= piece.length;
        if (copy.length == 0)
            return STATUS_OK;
        if (!copy.is_downwards) {
            copy.source += piece.length;
            copy.destination += piece.length;
        }
    }
}
