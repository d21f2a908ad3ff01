/* driver.c: graphs of requests and responses (driver.h). */
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "driver_program.h"

enum { RESPONSE_OFFSET = 0, KEY_OFFSET = 16, SUM_OFFSET = 0 };

struct graph {
    uint64_t answers; /* where each part begins; the slots of requests begin at 0 */
    uint64_t requests;
    uint64_t responses;
};

static struct graph graph_of(uint64_t count) {
    return (struct graph){
        .answers = count * GRANULE_SIZE,
        .requests = 2 * count * GRANULE_SIZE,
        .responses = 2 * count * GRANULE_SIZE + count * DRIVER_OBJECT_SIZE,
    };
}

enum status driver_fill(struct driver_area *area, uint64_t count, uint64_t seed, struct driver_counts *counts) {
    const struct program program = program_in(area, counts);
    const struct pointer whole = whole_area(area);
    const struct graph graph = graph_of(count);
    struct pointer request = pointer_in(area, FIRST);
    struct pointer response = pointer_in(area, SECOND);
    for (uint64_t item = 0; item < count; item++) {
        TRY(derive(&program, graph.requests + item * DRIVER_OBJECT_SIZE, DRIVER_OBJECT_SIZE, &request));
        TRY(derive(&program, graph.responses + item * DRIVER_OBJECT_SIZE, DRIVER_OBJECT_SIZE, &response));
        TRY(store(&program, request, RESPONSE_OFFSET, response));
        TRY(write_word(&program, request, KEY_OFFSET, chance(seed, item)));
        TRY(write_word(&program, response, SUM_OFFSET, 0));
        TRY(store(&program, whole, item * GRANULE_SIZE, request));
    }
    return STATUS_OK;
}

enum status driver_serve(struct driver_area *area, uint64_t count, uint64_t first, uint64_t share, uint64_t seed,
                         struct driver_counts *counts) {
    const struct program program = program_in(area, counts);
    const struct pointer whole = whole_area(area);
    const struct graph graph = graph_of(count);
    struct pointer request = pointer_in(area, FIRST);
    struct pointer response = pointer_in(area, SECOND);
    if (share == 0)
        return STATUS_OK;
    const uint64_t step = step_over(share, seed);
    uint64_t place = chance(seed, 1) % share;
    for (uint64_t i = 0; i < share; i++) {
        const uint64_t slot = (first + place) * GRANULE_SIZE;
        uint64_t key;
        uint64_t sum;
        TRY(load(&program, whole, slot, &request));
        TRY(load(&program, request, RESPONSE_OFFSET, &response));
        TRY(read_word(&program, request, KEY_OFFSET, &key));
        TRY(read_word(&program, response, SUM_OFFSET, &sum));
        TRY(write_word(&program, response, SUM_OFFSET, sum + mixed(key)));
        TRY(store(&program, whole, graph.answers + slot, response));
        counts->operations++;
        counts->checksum += area->is_shared ? mixed(key) : 0;
        place = place + step < share ? place + step : place + step - share;
    }
    return STATUS_OK;
}

enum status driver_collect(struct driver_area *area, uint64_t count, struct driver_counts *counts, uint64_t *sum) {
    const struct program program = program_in(area, counts);
    const struct pointer whole = whole_area(area);
    const struct graph graph = graph_of(count);
    struct pointer response = pointer_in(area, FIRST);
    *sum = 0;
    for (uint64_t item = 0; item < count; item++) {
        uint64_t word;
        TRY(load(&program, whole, graph.answers + item * GRANULE_SIZE, &response));
        TRY(read_word(&program, response, SUM_OFFSET, &word));
        *sum += word;
    }
    return STATUS_OK;
}

bool driver_end_with(int32_t parent) {
    return prctl(PR_SET_PDEATHSIG, SIGKILL) == 0 && getppid() == parent;
}
