/* Latent refinement: K steps against the gradient of the refine engine, and the best latent on the way. */
#ifndef REFINE_H
#define REFINE_H

#include "engine.h"

#define MAX_STEPS 32

typedef struct {
    int steps;
    double step, decay; /* root mean square of the first step; factor from one step to the next */
    bool normalised;    /* along the gradient itself; else along its sign */
    double momentum;    /* what earlier normalised directions still count, in [0, 1) */
} Refinement;

/* What refinement runs. All images are height, width, channel in [-1, 1]. */
typedef struct {
    Engine *embedder, *generator, *refine;
    size_t latent, groups, embedding, pixels; /* elements of z, y, embedding, image */
} RefinementEngines;

typedef struct {
    int best_step;                /* after which the chosen latent was reached; 0 is the encoder's */
    double cosine_before, cosine; /* of G(z, y) to the photo's face, before and at the chosen latent */
} Refined;

/* Moves z [latent] so that G(z, y) looks more like `image`; y is one-hot. The same rules as edgeage's Session:
 * the best latent by cosine wins, unless its pixel error is 1.5 times that of the first. */
bool refine_latent(const RefinementEngines *engines, const Refinement *how, const float *image, const float *y,
                   float *z, Refined *refined);

#endif
