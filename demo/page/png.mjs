// Text chunks of PNG files, byte for byte; pixels are never touched. W3C PNG (Third Edition), 11.3.3.

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let value = n;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value;
});

/** CRC-32 of bytes, as zlib has it. */
export function crc32(bytes) {
  let crc = 0xffffffff;
  for (const byte of bytes) crc = TABLE[(crc ^ byte) & 255] ^ (crc >>> 8);
  return (crc ^ 0xffffffff) >>> 0;
}

/** A file with chunks [[type, Uint8Array], ...] directly after IHDR. */
export function insertChunks(png, chunks) {
  const after = 8 + 12 + new DataView(png.buffer, png.byteOffset).getUint32(8); // signature and IHDR
  const parts = [png.subarray(0, after), ...chunks.map(([type, data]) => chunk(type, data)), png.subarray(after)];
  return concatenate(parts);
}

function chunk(type, data) {
  const body = concatenate([latin1(type), data]);
  const numbers = new DataView(new ArrayBuffer(8));
  numbers.setUint32(0, data.length);
  numbers.setUint32(4, crc32(body));
  const [length, crc] = [new Uint8Array(numbers.buffer, 0, 4), new Uint8Array(numbers.buffer, 4, 4)];
  return concatenate([length, body, crc]);
}

/** A letter that is not in Latin-1 becomes "?". */
export function latin1(text) {
  return Uint8Array.from(text, (letter) => (letter.codePointAt(0) < 256 ? letter.codePointAt(0) : 63));
}

export function concatenate(parts) {
  const out = new Uint8Array(parts.reduce((length, part) => length + part.length, 0));
  let at = 0;
  for (const part of parts) {
    out.set(part, at);
    at += part.length;
  }
  return out;
}
