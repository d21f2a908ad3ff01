/* share.c: shares capabilities with the Python program that starts it, share.py.
 *
 *     cc -Wall -Wextra share.c $(capshm config --cflags --libs) -o share
 *
 * A capability means memory at its address. So both programs map the object in the same place, which Python tells.
 */
#include <capshm/client.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SIZE = 4096, ALL = CAPSHM_PROT_READ | CAPSHM_PROT_WRITE | CAPSHM_PROT_CAP };

/* Ends the program with the library's own words. */
static void check(enum capshm_status status) {
    if (status == CAPSHM_OK)
        return;
    fprintf(stderr, "share: %s\n", capshm_last_refusal()->message);
    exit(EXIT_FAILURE);
}

static enum capshm_status map(const char *name, uint64_t address, capshm_capability *mapped) {
    int descriptor;
    capshm_capability place;
    check(capshm_capability_from_number(address, &place));
    check(capshm_shm_open(name, O_RDWR, 0, &descriptor));
    return capshm_mmap(place, SIZE, ALL, CAPSHM_MAP_SHARED | CAPSHM_MAP_FIXED, descriptor, 0, mapped);
}

int main(int argc, char **argv) {
    static const char greeting[] = "written by C";
    capshm_capability box;
    capshm_capability gift;
    capshm_capability beginning;
    capshm_capability present;
    capshm_capability secrets;
    struct capshm_description description;
    if (argc != 2)
        return EXIT_FAILURE;
    const uint64_t address = strtoull(argv[1], NULL, 0);

    check(capshm_machine_attach(NULL));
    check(map("/box", address, &box));

    /* What Python has stored in granule 0 comes out with its tag, and can be used within its bounds. */
    check(capshm_capability_load(box, 0, &gift));
    check(capshm_capability_describe(gift, &description));
    printf("loaded a capability: tag %d, %" PRIu64 " bytes\n", description.tag, description.length);
    check(capshm_capability_write(gift, 0, greeting, sizeof greeting));
    if (capshm_capability_write(gift, description.length, "!", 1) != CAPSHM_BOUNDS_VIOLATION)
        return EXIT_FAILURE;
    printf("past its end: %s\n", capshm_last_refusal()->rule);

    /* One goes back: the first 16 bytes of it, to read and no more. */
    check(capshm_capability_with_bounds(gift, 16, &beginning));
    check(capshm_capability_with_permissions(beginning, CAPSHM_PERMISSION_GLOBAL | CAPSHM_PERMISSION_LOAD, &present));
    check(capshm_capability_store(box, 16, present));

    /* An object without O_SHARECAP is its owner's: nobody else may have capabilities in it. */
    if (map("/secrets", address + SIZE, &secrets) != CAPSHM_REFUSED)
        return EXIT_FAILURE;
    printf("the owner's object: %s, errno %d\n", capshm_last_refusal()->rule, capshm_last_refusal()->error_number);
    capshm_machine_detach();
    return EXIT_SUCCESS;
}
