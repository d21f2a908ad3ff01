/* image.h: memory whose pointers lie where a real program had them (capshm/lab/inputs/image.py), and what a program does there.
 *
 * An image says which granules held pointers, and where those led: their targets. It does not say where allocations
 * began and ended, so objects are made up from the targets: one begins at each granule that a pointer leads to, and ends
 * where the next begins, or with its page. A capability has the bounds of its object, and no SW_VMEM. A pointer into the
 * middle of an allocation thereby makes two objects of it.
 *
 * An area of memory (driver.h) holds the image from offset on. What lies before that belongs to no object: revoking an
 * object never takes the capability to the area itself, whose bounds begin there.
 *
 * In each round a program frees some of its objects, and takes them again: one in IMAGE_SHARE of them, by the round's
 * seed. What leads to those is stored anew, as a program does that has allocated again; all other capabilities are
 * loaded, and their addresses go into the checksum. So every round begins with the tags of the image, in every world.
 */
#ifndef CAPSHM_IMAGE_H
#define CAPSHM_IMAGE_H

#include <stdint.h>

#include "driver.h"

enum {
    IMAGE_PAGE_GRANULES = 256,
    IMAGE_SHARE = 4, /* of objects, as CheriBSD's quarantine may hold of a heap */
};

struct image {
    const uint8_t *bits; /* of tagged granules, IMAGE_PAGE_GRANULES a page */
    const uint32_t *targets; /* of all of them, in order: granules of the image */
    uint8_t *begins; /* as long as bits, zero at first: where objects begin */
    uint64_t pages;
    uint64_t offset; /* of the image in areas, whole pages, not 0 */
};

/* Bytes of memory in a row. */
struct image_range {
    uint64_t start;
    uint64_t length;
};

/* Sets image->begins. Returns how many objects there are. */
uint64_t image_find_objects(struct image *image);

/* Stores a capability in each tagged granule of the area. */
enum status image_fill(struct driver_area *area, const struct image *image, struct driver_counts *counts);

/* The objects that a round frees, in an area that begins at that address: in ranges, which has room for all objects.
 * Objects in a row are one range. Returns how many ranges there are. */
uint64_t image_free(const struct image *image, uint64_t seed, uint64_t address, struct image_range *ranges);

/* Does the rest of that round, when what it has freed was revoked: an operation for each tagged granule. */
enum status image_work(struct driver_area *area, const struct image *image, uint64_t seed,
                       struct driver_counts *counts);

#endif
