/* Runs a bundle's engines from C: one of them on raw bytes, or the whole way from an aligned face to its six ages. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aging.h"

static const char USAGE[] =
    "usage: edgeage-c age BUNDLE FACE.ppm --group GROUP --out STRIP.ppm [--z Z.bin] [--codes CODES.bin]\n"
    "                 [--steps K] [--packed] [--float-io] [--threads N]\n"
    "       edgeage-c run [--threads N] FILE.tflite SIGNATURE INPUT=IN.bin ... OUTPUT=:OUT.bin ...\n"
    "\n"
    "age   ages an aligned face (binary PPM of the bundle's size) of age group GROUP (\"30-39\"), refines the latent\n"
    "      as the manifest says and writes the face and its ages side by side; --z the latent, as float32;\n"
    "      --codes the generated images as the engine gave them\n"
    "run   feeds raw bytes to one signature and writes its raw outputs\n"
    "\n"
    "Example: edgeage-c age models/edge64.agebundle face.ppm --group 30-39 --out strip.ppm\n";

static int usage(const char *problem)
{
    fprintf(stderr, "edgeage-c: %s\n%s", problem, USAGE);
    return 2;
}

static bool read_count(const char *text, int lowest, int highest, int *value)
{
    char *end;
    long number = strtol(text, &end, 10);
    *value = (int)number;
    return end != text && *end == '\0' && number >= lowest && number <= highest;
}

/* One "NAME=FILE" (an input) or "NAME=:FILE" (an output) of run. */
static bool feed_or_fetch(Engine *engine, const char *argument, bool outputs)
{
    char name[64];
    const char *equals = strchr(argument, '=');
    bool is_output = equals[1] == ':';
    if (is_output != outputs)
        return true;
    snprintf(name, sizeof name, "%.*s", (int)(equals - argument), argument);
    const char *path = equals + 1 + is_output;
    const Port *port = is_output ? engine_output(engine, name) : engine_input(engine, name);
    unsigned char *data = port == NULL ? NULL : malloc(port->bytes);
    if (data == NULL)
        return false;
    bool done;
    if (is_output)
        done = engine_read(engine, name, data, port->bytes) && write_file(path, data, port->bytes);
    else
        done = read_file(path, data, port->bytes) && engine_write(engine, name, data, port->bytes);
    free(data);
    return done;
}

static int run(int count, char **arguments, int threads)
{
    if (count < 3)
        return usage("run takes a file, a signature and at least one input");
    for (int i = 2; i < count; ++i)
        if (strchr(arguments[i], '=') == NULL)
            return usage("inputs and outputs are written NAME=FILE and NAME=:FILE");
    Runtime runtime;
    ModelFile file = {0};
    Engine engine = {0};
    bool done = runtime_open(&runtime, threads) && file_open(&file, &runtime, arguments[0])
                && engine_open(&engine, &file, arguments[1]);
    for (int i = 2; done && i < count; ++i)
        done = feed_or_fetch(&engine, arguments[i], false);
    done = done && engine_run(&engine);
    for (int i = 2; done && i < count; ++i)
        done = feed_or_fetch(&engine, arguments[i], true);
    engine_close(&engine);
    file_close(&file);
    runtime_close(&runtime);
    return done ? 0 : 1;
}

int main(int count, char **arguments)
{
    AgingOptions options = {.threads = 1, .steps = -1};
    char *rest[64];
    int rest_count = 0;
    if (count < 2 || strcmp(arguments[1], "--help") == 0) {
        printf("%s", USAGE);
        return count < 2 ? 2 : 0;
    }
    for (int i = 2; i < count; ++i) {
        const char *name = arguments[i];
        const char *value = i + 1 < count ? arguments[i + 1] : NULL;
        if (strcmp(name, "--packed") == 0) {
            options.packed = true;
        } else if (strcmp(name, "--float-io") == 0) {
            options.float_io = true;
        } else if (strncmp(name, "--", 2) != 0) {
            if (rest_count == (int)(sizeof rest / sizeof *rest))
                return usage("too many arguments");
            rest[rest_count++] = arguments[i];
        } else if (value == NULL) {
            return usage("an option lacks its value");
        } else {
            ++i;
            if (strcmp(name, "--threads") == 0) {
                if (!read_count(value, 1, 256, &options.threads))
                    return usage("--threads takes 1 to 256");
            } else if (strcmp(name, "--steps") == 0) {
                if (!read_count(value, 0, MAX_STEPS, &options.steps))
                    return usage("--steps takes 0 to 32");
            } else if (strcmp(name, "--group") == 0) {
                options.group = value;
            } else if (strcmp(name, "--out") == 0) {
                options.strip = value;
            } else if (strcmp(name, "--z") == 0) {
                options.z = value;
            } else if (strcmp(name, "--codes") == 0) {
                options.codes = value;
            } else {
                return usage("unknown option");
            }
        }
    }
    if (strcmp(arguments[1], "run") == 0)
        return run(rest_count, rest, options.threads);
    if (strcmp(arguments[1], "age") != 0)
        return usage("the first argument is age or run");
    if (rest_count != 2 || options.group == NULL || options.strip == NULL)
        return usage("age takes a bundle, a face, --group and --out");
    return age(rest[0], rest[1], &options) ? 0 : 1;
}
