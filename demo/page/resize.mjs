// Resize along the axes with filters that widen when shrinking, as Pillow's resize does.

import { reduce } from "./picture.mjs";

export const BILINEAR = { support: 1, weight: (x) => Math.max(1 - Math.abs(x), 0) };
export const BICUBIC = {
  support: 2,
  weight: (x) => {
    const t = Math.abs(x); // a = -0.5
    if (t < 1) return (1.5 * t - 2.5) * t * t + 1;
    return t < 2 ? ((-0.5 * t + 2.5) * t - 4) * t + 2 : 0;
  },
};

/** A picture of bytes at another size, without alpha; far larger ones are first averaged over blocks. */
export function shrunk(picture, width, height) {
  const across = Math.max(Math.trunc(picture.width / width / 2), 1);
  const down = Math.max(Math.trunc(picture.height / height / 2), 1);
  // Pillow may take different factors for both axes; photos keep their proportions, so that they are equal
  const factor = Math.min(across, down);
  const { width: fullWidth, height: fullHeight } = picture;
  const source = reduce(picture, factor);
  const columns = windows(fullWidth / factor, source.width, width, BILINEAR).map(fixedPoint);
  const rows = windows(fullHeight / factor, source.height, height, BILINEAR).map(fixedPoint);
  return vertically(horizontally(source, columns), rows);
}

/** Weights with 22 binary digits, as Pillow's are for bytes: the detector feels the last bit of a pixel. */
function fixedPoint({ first, weights }) {
  return { first, weights: weights.map((weight) => Math.floor(weight * 2 ** 22 + 0.5) / 2 ** 22) };
}

/**
 * For each of `count` output samples over the first `length` of `available` input samples: the first input
 * sample that counts, and the weights from there on.
 */
export function windows(length, available, count, filter) {
  const step = length / count;
  const wide = Math.max(step, 1);
  return Array.from({ length: count }, (_, i) => {
    const centre = (i + 0.5) * step;
    const first = Math.max(Math.trunc(centre - filter.support * wide + 0.5), 0);
    const end = Math.min(Math.trunc(centre + filter.support * wide + 0.5), available);
    const weights = Array.from({ length: end - first }, (_, k) => filter.weight((first + k - centre + 0.5) / wide));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: Float64Array.from(weights, (weight) => weight / sum) };
  });
}

/** Without alpha. */
function horizontally(picture, columns) {
  const { channels, data } = picture;
  const out = picture.like(columns.length, picture.height, 3);
  for (let y = 0, at = 0; y < out.height; y++) {
    for (let x = 0; x < columns.length; x++, at += 3) {
      const { first, weights } = columns[x];
      let from = (y * picture.width + first) * channels;
      let red = 0.5, green = 0.5, blue = 0.5; // rounds; a mean of bytes is never beyond them
      for (let k = 0; k < weights.length; k++, from += channels) {
        red += weights[k] * data[from];
        green += weights[k] * data[from + 1];
        blue += weights[k] * data[from + 2];
      }
      out.data[at] = Math.floor(red);
      out.data[at + 1] = Math.floor(green);
      out.data[at + 2] = Math.floor(blue);
    }
  }
  return out;
}

function vertically(picture, rows) {
  const { data } = picture;
  const out = picture.like(picture.width, rows.length);
  const length = picture.width * picture.channels;
  const sums = new Float64Array(length);
  for (let y = 0; y < rows.length; y++) {
    const { first, weights } = rows[y];
    sums.fill(0.5);
    for (let k = 0; k < weights.length; k++) {
      const start = (first + k) * length;
      for (let i = 0; i < length; i++) sums[i] += weights[k] * data[start + i];
    }
    for (let i = 0; i < length; i++) out.data[y * length + i] = Math.floor(sums[i]);
  }
  return out;
}

/** Rows [from, to) of a picture of floats enlarged to [width, height] overall, bicubic. */
export function enlargedRows(picture, columns, rows, from, to) {
  const { channels, data } = picture;
  const length = picture.width * channels;
  const line = new Float32Array(length);
  const out = new Float32Array((to - from) * columns.length * channels);
  for (let y = from, at = 0; y < to; y++) {
    line.fill(0);
    const { first: top, weights: down } = rows[y];
    for (let k = 0; k < down.length; k++) {
      const start = (top + k) * length;
      for (let i = 0; i < length; i++) line[i] += down[k] * data[start + i];
    }
    for (let x = 0; x < columns.length; x++) {
      const { first, weights } = columns[x];
      for (let channel = 0; channel < channels; channel++) {
        let sum = 0;
        for (let k = 0; k < weights.length; k++) sum += weights[k] * line[(first + k) * channels + channel];
        out[at++] = sum;
      }
    }
  }
  return out;
}
