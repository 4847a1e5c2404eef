// From a file or a video frame to upright sRGB pixels, and to smaller copies for the screen.

import { Picture } from "./picture.mjs";

export const MOST_MEGAPIXELS = 16; // what canvases of phones hold

/** {picture, reduced}; EXIF orientation applied, transparency over white. Raises an Error with a text for users. */
export async function readPhoto(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { imageOrientation: "from-image" });
  } catch {
    throw new Error("This file could not be read as a picture. Use a JPEG, PNG or WebP photo.");
  }
  const { width, height } = bitmap;
  const times = Math.min(Math.sqrt((MOST_MEGAPIXELS * 1e6) / (width * height)), 1);
  const picture = draw(bitmap, Math.round(width * times), Math.round(height * times));
  bitmap.close();
  return { picture, reduced: times < 1 ? [width, height] : null };
}

/** The pixels of anything that a canvas can draw. */
export function draw(source, width, height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.imageSmoothingQuality = "high";
  context.drawImage(source, 0, 0, width, height);
  return Picture.of(context.getImageData(0, 0, width, height));
}

export function toCanvas(picture) {
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  canvas.getContext("2d").putImageData(picture.toImageData(), 0, 0);
  return canvas;
}

/** A copy whose longer side is at most `side`, and how large it is against the photo. */
export function smaller(picture, side) {
  const times = Math.min(side / Math.max(picture.width, picture.height), 1);
  if (times === 1) return { picture, times };
  const size = [picture.width, picture.height].map((length) => Math.max(Math.round(length * times), 1));
  return { picture: draw(toCanvas(picture), ...size), times };
}
