// Refine one latent by K steps of fixed size against the gradient of the refine engine, as
// edgeage.runtime.refinement does. The best latent by cosine to the photo's embedding is kept, so it never gets
// worse, as long as its picture does not leave the photo.

import { cosine, meanSquare } from "./numbers.mjs";

export const MOST_STEPS = 8;
const PIXEL_GUARD = 1.5; // a latent may have this many times the mean squared pixel error of the first one
const FEW = 8; // nonzero entries; a gradient of fewer is sparse, not clipped
const AS_LARGE = Math.fround(127 / 128) * Math.fround(1 - 1e-6); // int8 ends at -128 and at 127

/**
 * `engines.refine(z, y, target, image)` gives {gradient, embedding}, `engines.check(z, y)` {image, embedding} and
 * `engines.embed(image)` an embedding; all Float32Array. `options`: the manifest's refinement with the wished
 * number of steps. Gives {z, bestStep, cosineBefore, cosineAfter, flag}; cosines null without steps.
 */
export async function refine(engines, z, y, image, options) {
  if (!options.steps) {
    return { z, bestStep: 0, cosineBefore: null, cosineAfter: null, flag: "unrefined: no steps" };
  }
  const target = await engines.embed(image);
  const way = await descend(engines, z, y, image, target, options);
  const chosen = await choose(engines, way.latents, y, image);
  const { cosine: cosineAfter, z: best } = way.latents[chosen.step];
  const flag = chosen.step ? (way.stopped ?? "refined") : (way.stopped ?? chosen.why);
  return { z: best, bestStep: chosen.step, cosineBefore: way.latents[0].cosine, cosineAfter, flag };
}

/** Latents that were looked at, [{z, cosine, error?}], and why no further step was taken, if so. */
async function descend(engines, start, y, image, target, options) {
  const latents = [];
  const directions = directionsOf(options);
  let z = start;
  for (let k = 0; k < options.steps; k++) {
    const { gradient, embedding } = await engines.refine(z, y, target, image);
    if (!embedding.every(Number.isFinite)) {
      if (!k) latents.push({ z, cosine: NaN });
      return { latents, stopped: "gradient not finite" };
    }
    latents.push({ z, cosine: cosine(embedding, target) });
    const fault = faultOf(gradient);
    if (fault) return { latents, stopped: fault };
    const size = Math.fround(options.step * options.decay ** k);
    const direction = directions(gradient, k);
    z = z.map((value, i) => value - Math.fround(size * direction[i]));
  }
  const { image: made, embedding } = await engines.check(z, y);
  latents.push({ z, cosine: cosine(embedding, target), error: meanSquare(made, image) });
  return { latents, stopped: null };
}

/** The step of the best latent above the given one whose picture stays near the photo; else 0 and why. */
async function choose(engines, latents, y, image) {
  const order = latents
    .map((latent, step) => ({ ...latent, step }))
    .filter((latent) => latent.cosine > latents[0].cosine)
    .sort((a, b) => b.cosine - a.cosine || a.step - b.step);
  if (!order.length) return { step: 0, why: "unrefined: the cosine never rose" };
  const errorOf = async ({ z, error }) => error ?? meanSquare((await engines.check(z, y)).image, image);
  const limit = PIXEL_GUARD * (await errorOf(latents[0]));
  for (const latent of order) {
    if ((await errorOf(latent)) <= limit) return { step: latent.step };
  }
  return { step: 0, why: "unrefined: the pixel error rose too far" };
}

/** Why a gradient has no direction to step along; null if it has one. */
export function faultOf(gradient) {
  if (!gradient.every(Number.isFinite)) return "gradient not finite";
  const sizes = gradient.map(Math.abs);
  const largest = Math.max(...sizes);
  if (!largest) return "converged";
  const clipped = sizes.filter((size) => size >= Math.fround(largest * Math.fround(AS_LARGE))).length;
  return sizes.filter((size) => size).length >= FEW && 2 * clipped > sizes.length ? "gradient saturated" : null;
}

/** gradient, step -> direction by the manifest's method: "sign", "normalised" (with momentum) or "adam". */
export function directionsOf({ method, momentum = 0 }) {
  if (method === "sign") return (gradient) => gradient.map(Math.sign);
  let mean = null;
  if (method === "normalised") {
    return (gradient) => {
      const unit = normalised(Float64Array.from(gradient));
      mean = mean ? unit.map((value, i) => momentum * mean[i] + value) : unit;
      return Float32Array.from(normalised(mean));
    };
  }
  if (method !== "adam") throw new Error(`unknown refinement method ${method}`);
  let square = null;
  return (gradient, step) => {
    mean = Float64Array.from(gradient, (value, i) => 0.9 * (mean?.[i] ?? 0) + 0.1 * value);
    square = Float64Array.from(gradient, (value, i) => 0.999 * (square?.[i] ?? 0) + 0.001 * value * value);
    const [meanScale, squareScale] = [1 - 0.9 ** (step + 1), 1 - 0.999 ** (step + 1)];
    return Float32Array.from(mean, (value, i) =>
      square[i] > 0 ? value / meanScale / Math.sqrt(square[i] / squareScale) : 0,
    );
  };
}

function normalised(values) {
  const size = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / values.length);
  return size > 0 ? values.map((value) => value / size) : values;
}
