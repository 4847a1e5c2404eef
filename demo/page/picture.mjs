// Pictures in memory: bytes or floats, interleaved, any number of channels (4 from a canvas, 3 elsewhere).

export class Picture {
  constructor(width, height, channels, data) {
    Object.assign(this, { width, height, channels, data });
  }

  /** A black picture of the same kind (bytes or floats, channels) and another size. */
  like(width, height) {
    const size = width * height * this.channels;
    return new Picture(width, height, this.channels, new this.data.constructor(size));
  }

  static of(imageData) {
    return new Picture(imageData.width, imageData.height, 4, imageData.data);
  }

  toImageData() {
    return new ImageData(this.data, this.width, this.height);
  }

  copy() {
    return new Picture(this.width, this.height, this.channels, this.data.slice());
  }
}

/**
 * Averages over blocks of `factor` x `factor` pixels; what is left over at the right and lower border makes
 * smaller blocks. Bytes are rounded as Pillow does, which divides by a fixed-point factor.
 */
export function reduce(picture, factor) {
  if (factor === 1) return picture;
  const { width, height, channels, data } = picture;
  const out = picture.like(Math.ceil(width / factor), Math.ceil(height / factor));
  const sums = new Float64Array(out.width * channels);
  const bytes = !(data instanceof Float32Array);
  for (let y = 0; y < out.height; y++) {
    const bottom = Math.min((y + 1) * factor, height);
    sums.fill(0);
    for (let row = y * factor; row < bottom; row++) {
      let at = row * width * channels;
      for (let x = 0; x < out.width; x++) {
        const right = Math.min((x + 1) * factor, width);
        for (let column = x * factor; column < right; column++) {
          for (let channel = 0; channel < channels; channel++) sums[x * channels + channel] += data[at++];
        }
      }
    }
    for (let x = 0; x < out.width; x++) {
      const count = (bottom - y * factor) * (Math.min((x + 1) * factor, width) - x * factor);
      const [half, fixed] = [count >> 1, Math.floor(Math.fround(2 ** 24 / count))];
      for (let channel = 0; channel < channels; channel++) {
        const i = x * channels + channel;
        const value = bytes ? Math.floor(((sums[i] + half) * fixed) / 2 ** 24) : sums[i] / count;
        out.data[y * out.width * channels + i] = value;
      }
    }
  }
  return out;
}
