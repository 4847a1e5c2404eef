#include "refine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PIXEL_GUARD 1.5 /* times the mean squared pixel error of the first latent */
#define FEW 8           /* a gradient of fewer nonzero entries is sparse, not clipped */

/* A run's memory: one row per latent that was visited. */
typedef struct {
    const RefinementEngines *engines;
    const float *image, *y;
    float *latents;            /* [steps + 1, latent] */
    float *target, *embedding; /* [embedding] */
    float *gradient;           /* [latent] */
    double *direction;         /* [latent], the sum of directions so far, not normalised */
    float *made;               /* [pixels] */
    double cosines[MAX_STEPS + 1], errors[MAX_STEPS + 1]; /* NAN where nothing was looked at */
} Run;

static double cosine(const float *a, const float *b, size_t count)
{
    double dot = 0, square_a = 0, square_b = 0;
    for (size_t i = 0; i < count; ++i) {
        dot += (double)a[i] * b[i];
        square_a += (double)a[i] * a[i];
        square_b += (double)b[i] * b[i];
    }
    double lengths = sqrt(square_a * square_b);
    return lengths > 0 ? dot / lengths : 0;
}

/* Whether a gradient has a direction to step along: not all zero, and not clipped at int8's ends in most entries,
 * which keeps no order among the dimensions. */
static bool has_direction(const float *gradient, size_t count)
{
    float largest = 0;
    for (size_t i = 0; i < count; ++i) {
        if (!isfinite(gradient[i]))
            return false;
        largest = fmaxf(largest, fabsf(gradient[i]));
    }
    size_t nonzero = 0, clipped = 0;
    for (size_t i = 0; i < count; ++i) {
        nonzero += gradient[i] != 0;
        clipped += fabsf(gradient[i]) >= largest * (127.0f / 128.0f) * (1 - 1e-6f);
    }
    return largest > 0 && (nonzero < FEW || 2 * clipped <= count);
}

/* The root mean square; 1 for zeros, which have no direction. */
static double rms(const double *values, size_t count)
{
    double square = 0;
    for (size_t i = 0; i < count; ++i)
        square += values[i] * values[i];
    return square > 0 ? sqrt(square / (double)count) : 1;
}

/* The gradient's direction is added to what is left of the earlier ones. */
static void add_direction(Run *run, double momentum)
{
    size_t count = run->engines->latent;
    double square = 0;
    for (size_t i = 0; i < count; ++i)
        square += (double)run->gradient[i] * run->gradient[i];
    double size = sqrt(square / (double)count); /* not 0: the gradient has a direction */
    for (size_t i = 0; i < count; ++i)
        run->direction[i] = momentum * run->direction[i] + run->gradient[i] / size;
}

/* z of step k + 1 from z and gradient of step k. The gradient's own scale does not matter. */
static void take_step(Run *run, const Refinement *how, int k)
{
    size_t count = run->engines->latent;
    const float *from = run->latents + (size_t)k * count;
    float *to = run->latents + (size_t)(k + 1) * count;
    add_direction(run, how->momentum);
    double size = rms(run->direction, count);
    float length = (float)(how->step * pow(how->decay, k));
    for (size_t i = 0; i < count; ++i) {
        float sign = (float)((run->gradient[i] > 0) - (run->gradient[i] < 0));
        float direction = how->normalised ? (float)(run->direction[i] / size) : sign;
        to[i] = from[i] - length * direction;
    }
}

/* The gradient and the cosine at step k. */
static bool look_with_gradient(Run *run, int k)
{
    const RefinementEngines *e = run->engines;
    if (!engine_set(e->refine, "z", run->latents + (size_t)k * e->latent, e->latent)
        || !engine_set(e->refine, "y", run->y, e->groups)
        || !engine_set(e->refine, "target", run->target, e->embedding)
        || !engine_set(e->refine, "image", run->image, e->pixels) || !engine_run(e->refine)
        || !engine_get(e->refine, "gradient", run->gradient, e->latent)
        || !engine_get(e->refine, "embedding", run->embedding, e->embedding))
        return false;
    run->cosines[k] = cosine(run->embedding, run->target, e->embedding);
    return true;
}

/* The cosine, unless it is known, and the pixel error at step k, for the price of a forward pass. */
static bool look(Run *run, int k)
{
    const RefinementEngines *e = run->engines;
    if (!engine_set(e->generator, "z", run->latents + (size_t)k * e->latent, e->latent)
        || !engine_set(e->generator, "y", run->y, e->groups) || !engine_run(e->generator)
        || !engine_get(e->generator, "image", run->made, e->pixels))
        return false;
    double error = 0;
    for (size_t i = 0; i < e->pixels; ++i) {
        float apart = run->made[i] - run->image[i];
        error += (double)apart * apart;
    }
    run->errors[k] = error / (double)e->pixels;
    if (!isnan(run->cosines[k]))
        return true;
    if (!engine_set(e->embedder, "image", run->made, e->pixels) || !engine_run(e->embedder)
        || !engine_get(e->embedder, "embedding", run->embedding, e->embedding))
        return false;
    run->cosines[k] = cosine(run->embedding, run->target, e->embedding);
    return true;
}

static bool descend(Run *run, const Refinement *how)
{
    for (int k = 0; k < how->steps; ++k) {
        if (!look_with_gradient(run, k))
            return false;
        if (!has_direction(run->gradient, run->engines->latent))
            return true;
        take_step(run, how, k);
    }
    return how->steps == 0 || look(run, how->steps); /* where the last step led */
}

/* The best step that passes the guard; 0 if none does. */
static bool choose(Run *run, int steps, int *best)
{
    bool passed_over[MAX_STEPS + 1] = {false};
    if (!look(run, 0))
        return false;
    for (;;) {
        *best = 0;
        for (int k = 1; k <= steps; ++k) /* a NAN is never larger */
            if (!passed_over[k] && run->cosines[k] > run->cosines[*best])
                *best = k;
        if (*best == 0)
            return true;
        if (isnan(run->errors[*best]) && !look(run, *best))
            return false;
        if (run->errors[*best] <= PIXEL_GUARD * run->errors[0])
            return true;
        passed_over[*best] = true;
    }
}

static bool refine_in(Run *run, const Refinement *how, float *z, Refined *refined)
{
    const RefinementEngines *e = run->engines;
    memcpy(run->latents, z, e->latent * sizeof *z);
    for (int k = 0; k <= MAX_STEPS; ++k)
        run->cosines[k] = run->errors[k] = NAN;
    if (!engine_set(e->embedder, "image", run->image, e->pixels) || !engine_run(e->embedder)
        || !engine_get(e->embedder, "embedding", run->target, e->embedding))
        return false;
    if (!descend(run, how) || !choose(run, how->steps, &refined->best_step))
        return false;
    refined->cosine_before = run->cosines[0];
    refined->cosine = run->cosines[refined->best_step];
    memcpy(z, run->latents + (size_t)refined->best_step * e->latent, e->latent * sizeof *z);
    return true;
}

bool refine_latent(const RefinementEngines *engines, const Refinement *how, const float *image, const float *y,
                   float *z, Refined *refined)
{
    if (how->steps < 0 || how->steps > MAX_STEPS) {
        fprintf(stderr, "%d refinement steps; give 0 to %d\n", how->steps, MAX_STEPS);
        return false;
    }
    Run run = {.engines = engines, .image = image, .y = y};
    run.latents = malloc(((size_t)how->steps + 1) * engines->latent * sizeof(float));
    run.target = malloc(engines->embedding * sizeof(float));
    run.embedding = malloc(engines->embedding * sizeof(float));
    run.gradient = malloc(engines->latent * sizeof(float));
    run.direction = calloc(engines->latent, sizeof(double));
    run.made = malloc(engines->pixels * sizeof(float));
    bool enough = run.latents && run.target && run.embedding && run.gradient && run.direction && run.made;
    if (!enough)
        fprintf(stderr, "out of memory\n");
    bool done = enough && refine_in(&run, how, z, refined);
    free(run.latents);
    free(run.target);
    free(run.embedding);
    free(run.gradient);
    free(run.direction);
    free(run.made);
    return done;
}
