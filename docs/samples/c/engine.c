#include "engine.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every call of LiteRT goes through here. */
#define CHECK(call)                                                                  \
    do {                                                                             \
        LiteRtStatus status_ = (call);                                               \
        if (status_ != kLiteRtStatusOk) {                                            \
            fprintf(stderr, "LiteRT status %d from %s\n", status_, #call);           \
            return false;                                                            \
        }                                                                            \
    } while (0)

/* LiteRT reads the CPU's options as TOML under the name "xnnpack"; the function that writes it is not exported. */
static bool set_threads(LiteRtOptions options, int threads)
{
    char *toml = malloc(40);
    if (toml == NULL) {
        fprintf(stderr, "out of memory\n");
        return false;
    }
    snprintf(toml, 40, "num_threads = %d\n", threads);
    LiteRtOpaqueOptions cpu = NULL;
    LiteRtStatus status = LiteRtCreateOpaqueOptions("xnnpack", toml, free, &cpu);
    if (status != kLiteRtStatusOk)
        free(toml);
    CHECK(status);
    status = LiteRtAddOpaqueOptions(options, cpu);
    if (status != kLiteRtStatusOk)
        LiteRtDestroyOpaqueOptions(cpu);
    CHECK(status);
    return true;
}

bool runtime_open(Runtime *runtime, int threads)
{
    memset(runtime, 0, sizeof *runtime);
    CHECK(LiteRtCreateEnvironment(0, NULL, &runtime->environment));
    CHECK(LiteRtCreateOptions(&runtime->options));
    CHECK(LiteRtSetOptionsHardwareAccelerators(runtime->options, kLiteRtHwAcceleratorCpu));
    return set_threads(runtime->options, threads);
}

void runtime_close(Runtime *runtime)
{
    if (runtime->options != NULL)
        LiteRtDestroyOptions(runtime->options);
    if (runtime->environment != NULL)
        LiteRtDestroyEnvironment(runtime->environment);
    memset(runtime, 0, sizeof *runtime);
}

bool file_open(ModelFile *file, Runtime *runtime, const char *path)
{
    memset(file, 0, sizeof *file);
    file->runtime = runtime;
    LiteRtStatus status = LiteRtCreateModelFromFile(runtime->environment, path, &file->model);
    if (status != kLiteRtStatusOk)
        fprintf(stderr, "%s is not there or not a TFLite file\n", path);
    CHECK(status);
    CHECK(LiteRtCreateCompiledModel(runtime->environment, file->model, runtime->options, &file->compiled));
    return true;
}

void file_close(ModelFile *file)
{
    if (file->compiled != NULL)
        LiteRtDestroyCompiledModel(file->compiled);
    if (file->model != NULL)
        LiteRtDestroyModel(file->model);
    memset(file, 0, sizeof *file);
}

static bool find_signature(LiteRtModel model, const char *name, size_t *index, LiteRtSignature *signature,
                           const char **key)
{
    size_t count;
    CHECK(LiteRtGetNumModelSignatures(model, &count));
    for (*index = 0; *index < count; ++*index) {
        CHECK(LiteRtGetModelSignature(model, *index, signature));
        CHECK(LiteRtGetSignatureKey(*signature, key));
        if (strcmp(*key, name) == 0)
            return true;
    }
    fprintf(stderr, "the file has no signature \"%s\"\n", name);
    return false;
}

static bool open_port(Port *port, Engine *engine, LiteRtTensor tensor, LiteRtTensorBufferRequirements requirements)
{
    LiteRtRankedTensorType type;
    CHECK(LiteRtGetRankedTensorType(tensor, &type));
    if (type.element_type != kLiteRtElementTypeInt8 && type.element_type != kLiteRtElementTypeFloat32) {
        fprintf(stderr, "%s has the element type %d, expected int8 or float32\n", port->name, type.element_type);
        return false;
    }
    port->is_int8 = type.element_type == kLiteRtElementTypeInt8;
    if (port->is_int8) {
        LiteRtQuantizationPerTensor quantization;
        CHECK(LiteRtGetPerTensorQuantization(tensor, &quantization));
        port->scale = quantization.scale;
        port->zero_point = (int)quantization.zero_point;
    }
    CHECK(LiteRtCreateManagedTensorBufferFromRequirements(engine->file->runtime->environment, &type, requirements,
                                                          &port->buffer));
    CHECK(LiteRtGetTensorBufferPackedSize(port->buffer, &port->bytes));
    port->count = port->bytes / (port->is_int8 ? 1 : sizeof(float));
    return true;
}

bool engine_open(Engine *engine, ModelFile *file, const char *name)
{
    memset(engine, 0, sizeof *engine);
    engine->file = file;
    LiteRtSignature signature;
    if (!find_signature(file->model, name, &engine->index, &signature, &engine->signature))
        return false;
    CHECK(LiteRtGetNumSignatureInputs(signature, &engine->input_count));
    CHECK(LiteRtGetNumSignatureOutputs(signature, &engine->output_count));
    if (engine->input_count > MAX_PORTS || engine->output_count > MAX_PORTS) {
        fprintf(stderr, "signature %s has more than %d inputs or outputs\n", name, MAX_PORTS);
        engine->input_count = engine->output_count = 0;
        return false;
    }
    LiteRtTensor tensor;
    LiteRtTensorBufferRequirements requirements;
    for (size_t i = 0; i < engine->input_count; ++i) {
        CHECK(LiteRtGetSignatureInputName(signature, i, &engine->inputs[i].name));
        CHECK(LiteRtGetSignatureInputTensorByIndex(signature, i, &tensor));
        CHECK(LiteRtGetCompiledModelInputBufferRequirements(file->compiled, engine->index, i, &requirements));
        if (!open_port(&engine->inputs[i], engine, tensor, requirements))
            return false;
    }
    for (size_t i = 0; i < engine->output_count; ++i) {
        CHECK(LiteRtGetSignatureOutputName(signature, i, &engine->outputs[i].name));
        CHECK(LiteRtGetSignatureOutputTensorByIndex(signature, i, &tensor));
        CHECK(LiteRtGetCompiledModelOutputBufferRequirements(file->compiled, engine->index, i, &requirements));
        if (!open_port(&engine->outputs[i], engine, tensor, requirements))
            return false;
    }
    return true;
}

void engine_close(Engine *engine)
{
    for (size_t i = 0; i < MAX_PORTS; ++i) {
        if (engine->inputs[i].buffer != NULL)
            LiteRtDestroyTensorBuffer(engine->inputs[i].buffer);
        if (engine->outputs[i].buffer != NULL)
            LiteRtDestroyTensorBuffer(engine->outputs[i].buffer);
    }
    memset(engine, 0, sizeof *engine);
}

bool engine_run(Engine *engine)
{
    LiteRtTensorBuffer inputs[MAX_PORTS], outputs[MAX_PORTS];
    for (size_t i = 0; i < engine->input_count; ++i)
        inputs[i] = engine->inputs[i].buffer;
    for (size_t i = 0; i < engine->output_count; ++i)
        outputs[i] = engine->outputs[i].buffer;
    CHECK(LiteRtRunCompiledModel(engine->file->compiled, engine->index, engine->input_count, inputs,
                                 engine->output_count, outputs));
    return true;
}

static const Port *find_port(const Port *ports, size_t count, const char *name, const char *signature)
{
    for (size_t i = 0; i < count; ++i)
        if (strcmp(ports[i].name, name) == 0)
            return &ports[i];
    fprintf(stderr, "signature %s has no port \"%s\"\n", signature, name);
    return NULL;
}

const Port *engine_input(const Engine *engine, const char *name)
{
    return find_port(engine->inputs, engine->input_count, name, engine->signature);
}

const Port *engine_output(const Engine *engine, const char *name)
{
    return find_port(engine->outputs, engine->output_count, name, engine->signature);
}

static bool size_fits(const Port *port, size_t given, size_t expected, const char *unit)
{
    if (given == expected)
        return true;
    fprintf(stderr, "port %s has %zu %s, not %zu\n", port->name, expected, unit, given);
    return false;
}

bool engine_write(Engine *engine, const char *input, const void *data, size_t bytes)
{
    const Port *port = engine_input(engine, input);
    if (port == NULL || !size_fits(port, bytes, port->bytes, "bytes"))
        return false;
    void *address;
    CHECK(LiteRtLockTensorBuffer(port->buffer, &address, kLiteRtTensorBufferLockModeWrite));
    memcpy(address, data, bytes);
    CHECK(LiteRtUnlockTensorBuffer(port->buffer));
    return true;
}

bool engine_read(Engine *engine, const char *output, void *data, size_t bytes)
{
    const Port *port = engine_output(engine, output);
    if (port == NULL || !size_fits(port, bytes, port->bytes, "bytes"))
        return false;
    void *address;
    CHECK(LiteRtLockTensorBuffer(port->buffer, &address, kLiteRtTensorBufferLockModeRead));
    memcpy(data, address, bytes);
    CHECK(LiteRtUnlockTensorBuffer(port->buffer));
    return true;
}

static int8_t quantize(float value, const Port *port)
{
    float code = rintf(value / port->scale) + (float)port->zero_point; /* halves to even */
    return (int8_t)fminf(fmaxf(code, -128.0f), 127.0f);
}

bool engine_set(Engine *engine, const char *input, const float *values, size_t count)
{
    const Port *port = engine_input(engine, input);
    if (port == NULL || !size_fits(port, count, port->count, "elements"))
        return false;
    void *address;
    CHECK(LiteRtLockTensorBuffer(port->buffer, &address, kLiteRtTensorBufferLockModeWrite));
    if (port->is_int8)
        for (size_t i = 0; i < count; ++i)
            ((int8_t *)address)[i] = quantize(values[i], port);
    else
        memcpy(address, values, port->bytes);
    CHECK(LiteRtUnlockTensorBuffer(port->buffer));
    return true;
}

bool engine_get(Engine *engine, const char *output, float *values, size_t count)
{
    const Port *port = engine_output(engine, output);
    if (port == NULL || !size_fits(port, count, port->count, "elements"))
        return false;
    void *address;
    CHECK(LiteRtLockTensorBuffer(port->buffer, &address, kLiteRtTensorBufferLockModeRead));
    if (port->is_int8)
        for (size_t i = 0; i < count; ++i)
            values[i] = (float)(((int8_t *)address)[i] - port->zero_point) * port->scale;
    else
        memcpy(values, address, port->bytes);
    CHECK(LiteRtUnlockTensorBuffer(port->buffer));
    return true;
}
