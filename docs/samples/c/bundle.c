#include "bundle.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

#define MAX_MANIFEST (16 << 20)

static char *read_text(const char *path)
{
    FILE *stream = fopen(path, "rb");
    if (stream == NULL) {
        fprintf(stderr, "no bundle there: cannot open %s\n", path);
        return NULL;
    }
    long size = fseek(stream, 0, SEEK_END) == 0 ? ftell(stream) : -1;
    char *text = NULL;
    if (size >= 0 && size <= MAX_MANIFEST && fseek(stream, 0, SEEK_SET) == 0)
        text = malloc((size_t)size + 1);
    if (text != NULL && fread(text, 1, (size_t)size, stream) != (size_t)size) {
        free(text);
        text = NULL;
    }
    if (text != NULL)
        text[size] = '\0';
    else
        fprintf(stderr, "cannot read %s\n", path);
    fclose(stream);
    return text;
}

static bool read_refinement(const char *manifest, Refinement *refinement)
{
    const char *value = json_member(manifest, "refinement");
    double steps = 0;
    if (!json_number(json_member(value, "steps"), &steps) || steps == 0)
        return value != NULL; /* a bundle without a refine engine: K = 0 */
    refinement->steps = (int)steps;
    refinement->normalised = json_is(json_member(value, "method"), "normalised");
    if (!refinement->normalised && !json_is(json_member(value, "method"), "sign")) {
        fprintf(stderr, "this sample steps \"normalised\" or \"sign\"; the manifest names another method\n");
        return false;
    }
    json_number(json_member(value, "momentum"), &refinement->momentum); /* 0 in bundles without it */
    return json_number(json_member(value, "step"), &refinement->step)
           && json_number(json_member(value, "decay"), &refinement->decay);
}

static bool read_profile(const char *manifest, Bundle *bundle)
{
    const char *profile = json_member(manifest, "profile");
    double size = 0;
    if (!json_number(json_member(profile, "image_size"), &size) || size < 1 || size > 1024)
        return false;
    bundle->image_size = (int)size;
    const char *groups = json_member(profile, "groups");
    while (bundle->group_count < MAX_GROUPS
           && json_text(json_item(groups, bundle->group_count), bundle->groups[bundle->group_count], 16))
        ++bundle->group_count;
    return bundle->group_count > 0;
}

bool bundle_open(Bundle *bundle, const char *folder)
{
    memset(bundle, 0, sizeof *bundle);
    char path[600];
    snprintf(bundle->folder, sizeof bundle->folder, "%s", folder);
    snprintf(path, sizeof path, "%s/manifest.json", bundle->folder);
    bundle->manifest = read_text(path);
    if (bundle->manifest == NULL)
        return false;
    const char *manifest = json_value(bundle->manifest);
    double schema = 0;
    if (!json_number(json_member(manifest, "schema"), &schema) || schema != 1) {
        fprintf(stderr, "%s: this sample reads schema 1\n", path);
        return false;
    }
    if (!read_refinement(manifest, &bundle->refinement) || !read_profile(manifest, bundle)) {
        fprintf(stderr, "%s: refinement or profile cannot be read\n", path);
        return false;
    }
    return true;
}

void bundle_close(Bundle *bundle)
{
    free(bundle->manifest);
    memset(bundle, 0, sizeof *bundle);
}

bool bundle_engine(const Bundle *bundle, const char *engine, const char *io, bool packed, char *path, size_t path_size,
                   char *signature, size_t signature_size)
{
    const char *engines = json_member(json_value(bundle->manifest), "engines");
    const char *files = json_member(json_member(engines, engine), "files");
    char file[128];
    const char *entry;
    for (size_t i = 0; (entry = json_item(files, i)) != NULL; ++i)
        if (json_is(json_member(entry, "format"), "tflite") && json_is(json_member(entry, "precision"), "int8")
            && json_is(json_member(entry, "io"), io)) {
            if (packed)
                snprintf(file, sizeof file, "engines/packed.%s.tflite",
                         strcmp(io, "int8") == 0 ? "int8" : "int8-float-io");
            else if (!json_text(json_member(entry, "file"), file, sizeof file))
                break;
            if (!json_text(json_member(entry, "signature"), signature, signature_size))
                break;
            return snprintf(path, path_size, "%s/%s", bundle->folder, file) < (int)path_size;
        }
    fprintf(stderr, "%s has no INT8 TFLite file with %s I/O for the %s\n", bundle->folder, io, engine);
    return false;
}
