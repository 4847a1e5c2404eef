// Put a generated change back into its photo, softly and in the photo's resolution, as
// edgeage.runtime.photo.blend does. Pixels outside of the mask keep their bytes.

import { apply, invert, zoom } from "./affine.mjs";
import { clamp } from "./numbers.mjs";
import { Picture } from "./picture.mjs";
import { resample } from "./resample.mjs";
import { BICUBIC, enlargedRows, windows } from "./resize.mjs";

export const USUAL_STRENGTH = 1.1;
export const MOST_STRENGTH = 2;

// The mask: an ellipse in fractions of the crop's side, full inside of FULL of its radius, zero at its rim.
const CENTRE = [0.487, 0.49];
const RADII = [0.475, 0.49];
const FULL = 0.72;
const BAND = 128; // rows that are in work at a time
const FINE = 1.5; // samples per crop pixel and axis when a crop is turned into the photo's axes

/** The smallest rectangle of a photo that holds the mask of a crop, and the map from it to the crop. */
export function place(map, size, photo) {
  const centre = apply(map, [CENTRE[0] * size, CENTRE[1] * size]);
  const reach = [0, 3].map((row) => Math.hypot(map[row] * RADII[0] * size, map[row + 1] * RADII[1] * size));
  const limit = [photo.width, photo.height];
  const low = [0, 1].map((axis) => clamp(Math.floor(centre[axis] - reach[axis]), 0, limit[axis]));
  const high = [0, 1].map((axis) => clamp(Math.ceil(centre[axis] + reach[axis]), low[axis], limit[axis]));
  const cropOf = invert(map);
  const [x, y] = low;
  cropOf[2] += cropOf[0] * x + cropOf[1] * y;
  cropOf[5] += cropOf[3] * x + cropOf[4] * y;
  return { left: x, top: y, width: high[0] - x, height: high[1] - y, cropOf, size };
}

/**
 * Adds the difference of two generated faces, Float32Array [size, size, 3] in [-1, 1], to a photo in place.
 * Equal faces leave it as it is.
 */
export function blendDelta(photo, where, aged, source, strength) {
  const times = Math.fround(127.5 * strength);
  const difference = aged.map((value, i) => Math.fround(value - source[i]) * times);
  if (!where.width || !where.height || difference.every((value) => value === 0)) return;
  const { columns, rows, turned } = spread(where, new Picture(where.size, where.size, 3, difference));
  for (let from = 0; from < where.height; from += BAND) {
    const to = Math.min(from + BAND, where.height);
    const change = enlargedRows(turned, columns, rows, from, to);
    for (let y = from, at = 0; y < to; y++) {
      let pixel = ((where.top + y) * photo.width + where.left) * photo.channels;
      for (let x = 0; x < where.width; x++, at += 3, pixel += photo.channels) {
        const weight = mask(where, x, y);
        if (!weight) continue;
        // bytes of a canvas round to even and clamp by themselves
        for (let k = 0; k < 3; k++) photo.data[pixel + k] += change[at + k] * weight;
      }
    }
  }
}

/** The mask at a pixel of a place's rectangle, 0..1. */
function mask({ cropOf: [a, b, c, d, e, f], size }, x, y) {
  const u = (a * (x + 0.5) + b * (y + 0.5) + c - CENTRE[0] * size) / (RADII[0] * size);
  const v = (d * (x + 0.5) + e * (y + 0.5) + f - CENTRE[1] * size) / (RADII[1] * size);
  const ramp = clamp((1 - Math.sqrt(u * u + v * v)) / (1 - FULL), 0, 1);
  return ramp * ramp * (3 - 2 * ramp); // smoothstep: no edge at either end
}

/**
 * A crop turned into the photo's axes at little more than its own density, and the windows that enlarge it from
 * there: a tenth of the time of turning every pixel of the photo.
 */
function spread({ width, height, cropOf }, crop) {
  const density = FINE * zoom(cropOf);
  const [across, down] = [width, height].map((length) => Math.min(Math.ceil(length * density), length));
  const [a, b, c, d, e, f] = cropOf;
  const [wide, high] = [width / across, height / down];
  const turned = resample(crop, [a * wide, b * high, c, d * wide, e * high, f], [across, down]);
  return {
    turned,
    columns: windows(across, across, width, BICUBIC),
    rows: windows(down, down, height, BICUBIC),
  };
}
