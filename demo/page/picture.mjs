// Pictures in memory: bytes or floats, interleaved, any number of channels (4 from a canvas, 3 elsewhere).

export class Picture {
  constructor(width, height, channels, data) {
    Object.assign(this, { width, height, channels, data });
  }

  /** A black picture of the same kind (bytes or floats) and another size. */
  like(width, height, channels = this.channels) {
    return new Picture(width, height, channels, new this.data.constructor(width * height * channels));
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
  const bytes = !(data instanceof Float32Array);
  const length = width * channels;
  const sums = new Float64Array(out.width * channels);
  const sumOf = Int32Array.from({ length }, (_, i) => {
    const channel = i % channels;
    return Math.floor((i - channel) / channels / factor) * channels + channel;
  });
  for (let y = 0; y < out.height; y++) {
    const bottom = Math.min((y + 1) * factor, height);
    sums.fill(0);
    for (let row = y * factor; row < bottom; row++) {
      const start = row * length;
      for (let i = 0; i < length; i++) sums[sumOf[i]] += data[start + i];
    }
    const start = y * sums.length;
    for (let i = 0; i < sums.length; i++) {
      const x = Math.floor(i / channels);
      const count = (bottom - y * factor) * (Math.min((x + 1) * factor, width) - x * factor);
      const fixed = Math.floor(Math.fround(2 ** 24 / count));
      const mean = bytes ? Math.floor(((sums[i] + (count >> 1)) * fixed) / 2 ** 24) : sums[i] / count;
      out.data[start + i] = mean;
    }
  }
  return out;
}
