// Look a picture up through an affine map with area quality: no aliasing when shrinking, bicubic when growing.
// The same steps as edgeage.runtime.photo.resample, with the rounding of Pillow's filters.

import { apply, zoom } from "./affine.mjs";
import { clamp } from "./numbers.mjs";
import { reduce } from "./picture.mjs";

/**
 * A picture of [width, height] and three channels, looked up in `picture` where `sourceOf` maps its coordinates to.
 * Outside of `picture` the nearest border pixel is taken, or black with `options.black`.
 * `options.oversampling`: grid points per output pixel and axis that are left to the average of areas; below 1 it
 * softens.
 */
export function resample(picture, sourceOf, [width, height], { black = false, oversampling = 4 } = {}) {
  const step = zoom(sourceOf); // source pixels per output pixel
  let { patch, map } = cut(picture, sourceOf, [width, height], step, black);
  // Strong shrinking: first average whole blocks (cheap), so that about `oversampling` remain.
  const block = Math.max(Math.trunc(step / oversampling), 1);
  patch = reduce(patch, block);
  // The rest on a finer grid that is then averaged: an area filter that also holds under rotation.
  const fine = Math.max(Math.ceil(step / block - 1e-6), 1);
  const [a, b, c, d, e, f] = map.map((value) => value / block);
  const grid = [a / fine, b / fine, c, d / fine, e / fine, f];
  const look = fine === 1 ? bicubic : bilinear;
  return reduce(look(patch, grid, width * fine, height * fine), fine);
}

/** The part of a picture that the output can see, and what lies around it, without alpha; and the map into it. */
function cut(picture, sourceOf, [width, height], step, black) {
  const corners = [[0, 0], [width, 0], [0, height], [width, height]].map((corner) => apply(sourceOf, corner));
  const margin = 2 * step + 3; // what the filters reach beyond the outermost sample, and rounding
  const [left, right] = range(corners.map(([x]) => x), margin, picture.width);
  const [top, bottom] = range(corners.map(([, y]) => y), margin, picture.height);
  const { channels, data } = picture;
  const patch = picture.like(right - left, bottom - top, 3);
  for (let y = top, at = 0; y < bottom; y++) {
    const row = clamp(y, 0, picture.height - 1);
    for (let x = left; x < right; x++, at += 3) {
      const column = clamp(x, 0, picture.width - 1);
      if (black && (row !== y || column !== x)) continue;
      const from = (row * picture.width + column) * channels;
      patch.data[at] = data[from];
      patch.data[at + 1] = data[from + 1];
      patch.data[at + 2] = data[from + 2];
    }
  }
  const map = sourceOf.slice();
  map[2] -= left;
  map[5] -= top;
  return { patch, map };
}

function range(ends, margin, limit) {
  const low = Math.min(Math.floor(Math.min(...ends) - margin), limit - 1);
  const high = Math.ceil(Math.max(...ends) + margin);
  return [low, Math.max(high, clamp(low, 0, limit - 1) + 1)];
}

// The two loops below are where a photo's time goes; they make no objects per pixel.

function bilinear(picture, [a, b, c, d, e, f], width, height) {
  const { channels, data, width: stride } = picture;
  const out = picture.like(width, height);
  const bytes = !(data instanceof Float32Array);
  const lastX = picture.width - 1, lastY = picture.height - 1;
  for (let j = 0, at = 0; j < height; j++) {
    for (let i = 0; i < width; i++) {
      const x = a * (i + 0.5) + b * (j + 0.5) + c - 0.5;
      const y = d * (i + 0.5) + e * (j + 0.5) + f - 0.5;
      const left = Math.floor(x), top = Math.floor(y);
      const dx = x - left, dy = y - top;
      const x0 = clamp(left, 0, lastX), x1 = clamp(left + 1, 0, lastX);
      const row0 = clamp(top, 0, lastY) * stride, row1 = clamp(top + 1, 0, lastY) * stride;
      const p = (row0 + x0) * channels, q = (row0 + x1) * channels;
      const r = (row1 + x0) * channels, s = (row1 + x1) * channels;
      for (let channel = 0; channel < channels; channel++) {
        const upper = data[p + channel] * (1 - dx) + data[q + channel] * dx;
        const lower = data[r + channel] * (1 - dx) + data[s + channel] * dx;
        const value = upper + (lower - upper) * dy;
        out.data[at++] = bytes ? Math.floor(value) : value;
      }
    }
  }
  return out;
}

function bicubic(picture, [a, b, c, d, e, f], width, height) {
  const { channels, data } = picture;
  const stride = picture.width * channels;
  const out = picture.like(width, height);
  const bytes = !(data instanceof Float32Array);
  const lastX = picture.width - 1, lastY = picture.height - 1;
  for (let j = 0, at = 0; j < height; j++) {
    for (let i = 0; i < width; i++) {
      const x = a * (i + 0.5) + b * (j + 0.5) + c - 0.5;
      const y = d * (i + 0.5) + e * (j + 0.5) + f - 0.5;
      const left = Math.floor(x), top = Math.floor(y);
      const dx = x - left, dy = y - top;
      const c0 = clamp(left - 1, 0, lastX) * channels, c1 = clamp(left, 0, lastX) * channels;
      const c2 = clamp(left + 1, 0, lastX) * channels, c3 = clamp(left + 2, 0, lastX) * channels;
      const r0 = clamp(top - 1, 0, lastY) * stride, r1 = clamp(top, 0, lastY) * stride;
      const r2 = clamp(top + 1, 0, lastY) * stride, r3 = clamp(top + 2, 0, lastY) * stride;
      for (let k = 0; k < channels; k++) {
        const value = cubic(
          cubic(data[r0 + c0 + k], data[r0 + c1 + k], data[r0 + c2 + k], data[r0 + c3 + k], dx),
          cubic(data[r1 + c0 + k], data[r1 + c1 + k], data[r1 + c2 + k], data[r1 + c3 + k], dx),
          cubic(data[r2 + c0 + k], data[r2 + c1 + k], data[r2 + c2 + k], data[r2 + c3 + k], dx),
          cubic(data[r3 + c0 + k], data[r3 + c1 + k], data[r3 + c2 + k], data[r3 + c3 + k], dx),
          dy,
        );
        out.data[at++] = bytes ? Math.floor(clamp(value, 0, 255)) : value;
      }
    }
  }
  return out;
}

/** Pillow's cubic (a = -1) through four neighbours, at `t` between the middle two. */
function cubic(v1, v2, v3, v4, t) {
  return v2 + t * (v3 - v1 + t * (2 * (v1 - v2) + v3 - v4 + t * (v2 - v1 + v4 - v3)));
}
