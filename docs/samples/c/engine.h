/* A bundle's engines: TFLite files in LiteRT, called by the names of their signatures and ports. */
#ifndef ENGINE_H
#define ENGINE_H

#include <stdbool.h>
#include <stddef.h>

#include "litert_c.h"

#define MAX_PORTS 4 /* of an engine, in or out; the refinement step has the most */

/* LiteRT itself, one for the program. */
typedef struct {
    LiteRtEnvironment environment;
    LiteRtOptions options;
} Runtime;

/* One TFLite file, ready to run all its signatures. */
typedef struct {
    Runtime *runtime;
    LiteRtModel model;
    LiteRtCompiledModel compiled;
} ModelFile;

/* One input or output. real = scale * (code - zero_point) if it is int8. */
typedef struct {
    const char *name; /* belongs to the model */
    LiteRtTensorBuffer buffer;
    size_t bytes, count; /* packed size, elements */
    bool is_int8;
    float scale;
    int zero_point;
} Port;

/* One signature of a file. */
typedef struct {
    ModelFile *file;
    const char *signature;
    size_t index, input_count, output_count;
    Port inputs[MAX_PORTS], outputs[MAX_PORTS];
} Engine;

/* Functions that return bool print what failed to stderr and return false. What an *_open leaves behind, opened or
 * not, is given to its *_close; closing something zeroed does nothing. Close in the reverse order of opening. */
bool runtime_open(Runtime *runtime, int threads);
void runtime_close(Runtime *runtime);
bool file_open(ModelFile *file, Runtime *runtime, const char *path);
void file_close(ModelFile *file);
bool engine_open(Engine *engine, ModelFile *file, const char *signature);
void engine_close(Engine *engine);

bool engine_run(Engine *engine);
/* Bytes as the file stores them; `bytes` must be the port's size. */
bool engine_write(Engine *engine, const char *input, const void *data, size_t bytes);
bool engine_read(Engine *engine, const char *output, void *data, size_t bytes);
/* Real numbers, in the file's order (images are height, width, channel); quantised here if the port is int8. */
bool engine_set(Engine *engine, const char *input, const float *values, size_t count);
bool engine_get(Engine *engine, const char *output, float *values, size_t count);
/* The port of that name; NULL, with a message, if there is none. */
const Port *engine_input(const Engine *engine, const char *name);
const Port *engine_output(const Engine *engine, const char *name);

#endif
