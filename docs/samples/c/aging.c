#include "aging.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bundle.h"

enum { ENCODER, EMBEDDER, GENERATOR, GENERATOR_ALL, REFINE, ENGINE_COUNT };
static const char *const NAMES[ENGINE_COUNT] = {"encoder", "embedder", "generator", "generator_all", "refine"};

typedef struct {
    Runtime runtime;
    Bundle bundle;
    ModelFile files[ENGINE_COUNT]; /* only the first is used with the packed file */
    Engine engines[ENGINE_COUNT];
} App;

bool read_file(const char *path, void *data, size_t size)
{
    FILE *stream = fopen(path, "rb");
    if (stream == NULL) {
        fprintf(stderr, "cannot open %s\n", path);
        return false;
    }
    bool exact = fread(data, 1, size, stream) == size && fgetc(stream) == EOF;
    fclose(stream);
    if (!exact)
        fprintf(stderr, "%s does not have %zu bytes\n", path, size);
    return exact;
}

bool write_file(const char *path, const void *data, size_t size)
{
    FILE *stream = fopen(path, "wb");
    bool written = stream != NULL && fwrite(data, 1, size, stream) == size;
    if (stream != NULL && fclose(stream) != 0)
        written = false;
    if (!written)
        fprintf(stderr, "cannot write %s\n", path);
    return written;
}

/* The pixels of a binary PPM of size * size, 8 bits; comments in its head are not read. */
static bool read_ppm(const char *path, int size, unsigned char *pixels)
{
    FILE *stream = fopen(path, "rb");
    if (stream == NULL) {
        fprintf(stderr, "cannot open %s\n", path);
        return false;
    }
    int width = 0, height = 0, most = 0;
    size_t bytes = (size_t)size * (size_t)size * 3;
    bool good = fscanf(stream, "P6 %d %d %d", &width, &height, &most) == 3 && fgetc(stream) != EOF && width == size
                && height == size && most == 255 && fread(pixels, 1, bytes, stream) == bytes;
    fclose(stream);
    if (!good)
        fprintf(stderr, "%s is not a binary PPM (P6) of %d x %d pixels\n", path, size, size);
    return good;
}

/* `face` and then `count` images [count, size, size, 3] in [-1, 1], side by side. */
static bool write_strip(const char *path, int size, const unsigned char *face, const float *images, size_t count)
{
    size_t row = (size_t)size * 3, width = row * (count + 1);
    char head[48];
    int head_size = snprintf(head, sizeof head, "P6\n%zu %d\n255\n", width / 3, size);
    unsigned char *file = malloc((size_t)head_size + width * (size_t)size);
    if (file == NULL) {
        fprintf(stderr, "out of memory\n");
        return false;
    }
    memcpy(file, head, (size_t)head_size);
    for (int y = 0; y < size; ++y) {
        unsigned char *line = file + head_size + width * (size_t)y;
        memcpy(line, face + row * (size_t)y, row);
        for (size_t i = 0; i < count; ++i)
            for (size_t x = 0; x < row; ++x) {
                float value = images[(i * (size_t)size + (size_t)y) * row + x];
                line[row * (i + 1) + x] = (unsigned char)rintf(fminf(fmaxf((value + 1) * 127.5f, 0), 255));
            }
    }
    bool written = write_file(path, file, (size_t)head_size + width * (size_t)size);
    free(file);
    return written;
}

static bool open_app(App *app, const char *bundle, const AgingOptions *options)
{
    if (!bundle_open(&app->bundle, bundle) || !runtime_open(&app->runtime, options->threads))
        return false;
    if (options->steps >= 0)
        app->bundle.refinement.steps = options->steps;
    int last = app->bundle.refinement.steps > 0 ? REFINE : GENERATOR_ALL;
    for (int i = 0; i <= last; ++i) {
        char path[700], signature[64];
        if (!bundle_engine(&app->bundle, NAMES[i], options->float_io ? "float32" : "int8", options->packed, path,
                           sizeof path, signature, sizeof signature))
            return false;
        ModelFile *file = &app->files[options->packed ? 0 : i];
        if (file->model == NULL && !file_open(file, &app->runtime, path))
            return false;
        if (!engine_open(&app->engines[i], file, signature))
            return false;
    }
    return true;
}

static void close_app(App *app)
{
    for (int i = 0; i < ENGINE_COUNT; ++i)
        engine_close(&app->engines[i]);
    for (int i = 0; i < ENGINE_COUNT; ++i)
        file_close(&app->files[i]);
    runtime_close(&app->runtime);
    bundle_close(&app->bundle);
}

/* Index of the option's age group, -1 if the bundle has no such group. */
static int find_group(const Bundle *bundle, const char *name)
{
    for (size_t i = 0; i < bundle->group_count; ++i)
        if (strcmp(bundle->groups[i], name) == 0)
            return (int)i;
    fprintf(stderr, "no age group %s; the groups are", name);
    for (size_t i = 0; i < bundle->group_count; ++i)
        fprintf(stderr, " %s", bundle->groups[i]);
    fprintf(stderr, "\n");
    return -1;
}

/* The latent of an image, refined towards it at its own group. */
static bool find_latent(App *app, const float *image, size_t pixels, const float *y, float *z, size_t latent)
{
    Engine *encoder = &app->engines[ENCODER];
    if (!engine_set(encoder, "image", image, pixels) || !engine_run(encoder) || !engine_get(encoder, "z", z, latent))
        return false;
    if (app->bundle.refinement.steps == 0)
        return true;
    const Port *embedding = engine_output(&app->engines[EMBEDDER], "embedding");
    if (embedding == NULL)
        return false;
    RefinementEngines engines = {
        .embedder = &app->engines[EMBEDDER],
        .generator = &app->engines[GENERATOR],
        .refine = &app->engines[REFINE],
        .latent = latent,
        .groups = app->bundle.group_count,
        .embedding = embedding->count,
        .pixels = pixels,
    };
    Refined refined;
    if (!refine_latent(&engines, &app->bundle.refinement, image, y, z, &refined))
        return false;
    printf("refined: step %d of %d, cosine %.4f -> %.4f\n", refined.best_step, app->bundle.refinement.steps,
           refined.cosine_before, refined.cosine);
    return true;
}

/* G(z, y) for every y at once; images [groups, size, size, 3]. */
static bool generate_all(App *app, const float *z, size_t latent, float *images, size_t count)
{
    size_t groups = app->bundle.group_count;
    Engine *generator = &app->engines[GENERATOR_ALL];
    float *repeated = malloc(groups * latent * sizeof *repeated);
    float *one_hot = calloc(groups * groups, sizeof *one_hot);
    bool done = repeated != NULL && one_hot != NULL;
    for (size_t i = 0; done && i < groups; ++i) {
        memcpy(repeated + i * latent, z, latent * sizeof *z);
        one_hot[i * groups + i] = 1;
    }
    done = done && engine_set(generator, "z", repeated, groups * latent)
           && engine_set(generator, "y", one_hot, groups * groups) && engine_run(generator)
           && engine_get(generator, "image", images, count);
    free(repeated);
    free(one_hot);
    return done;
}

/* The generated images as the engine holds them. */
static bool write_codes(App *app, const char *path)
{
    Engine *generator = &app->engines[GENERATOR_ALL];
    const Port *port = engine_output(generator, "image");
    unsigned char *codes = port == NULL ? NULL : malloc(port->bytes);
    bool done = codes != NULL && engine_read(generator, "image", codes, port->bytes)
                && write_file(path, codes, port->bytes);
    free(codes);
    return done;
}

/* Room for what goes through the engines, in floats unless said. */
typedef struct {
    size_t pixels, latent;
    unsigned char *face; /* [pixels] bytes */
    float *image, *images, *z;
    float y[MAX_GROUPS];
} Room;

static bool age_face(App *app, const char *face, const AgingOptions *options, Room *room)
{
    Bundle *bundle = &app->bundle;
    int group = find_group(bundle, options->group);
    if (group < 0 || !read_ppm(face, bundle->image_size, room->face))
        return false;
    for (size_t i = 0; i < room->pixels; ++i)
        room->image[i] = (float)room->face[i] / 127.5f - 1.0f;
    room->y[group] = 1;
    size_t count = bundle->group_count * room->pixels;
    return find_latent(app, room->image, room->pixels, room->y, room->z, room->latent)
           && generate_all(app, room->z, room->latent, room->images, count)
           && (options->z == NULL || write_file(options->z, room->z, room->latent * sizeof(float)))
           && (options->codes == NULL || write_codes(app, options->codes))
           && write_strip(options->strip, bundle->image_size, room->face, room->images, bundle->group_count);
}

bool age(const char *bundle, const char *face, const AgingOptions *options)
{
    App app;
    memset(&app, 0, sizeof app);
    Room room = {0};
    bool done = open_app(&app, bundle, options);
    const Port *z = done ? engine_output(&app.engines[ENCODER], "z") : NULL;
    if (z != NULL) {
        room.latent = z->count;
        room.pixels = (size_t)app.bundle.image_size * (size_t)app.bundle.image_size * 3;
        room.face = malloc(room.pixels);
        room.image = malloc(room.pixels * sizeof(float));
        room.images = malloc(app.bundle.group_count * room.pixels * sizeof(float));
        room.z = malloc(room.latent * sizeof(float));
        done = room.face && room.image && room.images && room.z;
        if (!done)
            fprintf(stderr, "out of memory\n");
        done = done && age_face(&app, face, options, &room);
    } else {
        done = false;
    }
    free(room.face);
    free(room.image);
    free(room.images);
    free(room.z);
    close_app(&app);
    return done;
}
