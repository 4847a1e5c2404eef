/* From an aligned face to its ages: encoder, K refinement steps, generator. */
#ifndef AGING_H
#define AGING_H

#include <stdbool.h>
#include <stddef.h>

#include "refine.h"

typedef struct {
    const char *group;    /* the face's own age group, as the manifest names it */
    const char *strip;    /* PPM to write: the face, then every age */
    const char *z, *codes; /* raw files to write, or NULL: the latent; the generated images as the engine gave them */
    int threads, steps;   /* steps -1: the manifest's */
    bool packed, float_io; /* which of the bundle's files are used */
} AgingOptions;

/* False, with a message on stderr, if anything failed; then no file was written. */
bool age(const char *bundle, const char *face, const AgingOptions *options);

/* Exactly `size` bytes. */
bool read_file(const char *path, void *data, size_t size);
bool write_file(const char *path, const void *data, size_t size);

#endif
