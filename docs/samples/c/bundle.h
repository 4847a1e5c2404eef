/* What this sample reads of a bundle: manifest.json, and which TFLite file holds which engine. */
#ifndef BUNDLE_H
#define BUNDLE_H

#include "engine.h"
#include "refine.h"

#define MAX_GROUPS 16

typedef struct {
    char folder[512];
    char *manifest; /* its text */
    Refinement refinement;
    int image_size;
    size_t group_count;
    char groups[MAX_GROUPS][16];
} Bundle;

/* Reads NAME.agebundle/manifest.json. Files are not hashed here: `edgeage inspect` verifies a bundle before an app
 * ships it. As with engines: what *_open leaves behind goes to *_close. */
bool bundle_open(Bundle *bundle, const char *folder);
void bundle_close(Bundle *bundle);

/* Path and signature of an engine's INT8 TFLite file with int8 or float32 ("io") inputs and outputs: its own file, or
 * the packed one, which holds all engines. */
bool bundle_engine(const Bundle *bundle, const char *engine, const char *io, bool packed, char *path, size_t path_size,
                   char *signature, size_t signature_size);

#endif
