// How well a face can be aged: seen from the front, all of it in the photo, large enough. As
// edgeage.runtime.photo.quality, where the limits come from.

import { clamp } from "./numbers.mjs";

const FRONTAL = 0.5;
const PROFILE = 1.5;
const LEAST_INSIDE = 0.5;
const DOUBTFUL = 0.5;
const SMALL_FACE = 32;

/** {turn, inside, score}: the nose between the ears (0) or on one (-1, 1), share in the photo, 0 to 1. */
export function quality({ box: [left, top, right, bottom], keypoints }, photo) {
  const [leftEye, rightEye, nose, , leftEar, rightEar] = keypoints;
  const along = ([x, y]) => x * (rightEye[0] - leftEye[0]) + y * (rightEye[1] - leftEye[1]);
  const [low, high] = [along(leftEar), along(rightEar)];
  const turn = high > low ? (2 * along(nose) - low - high) / (high - low) : Infinity;
  const width = Math.max(Math.min(right, photo.width) - Math.max(left, 0), 0);
  const height = Math.max(Math.min(bottom, photo.height) - Math.max(top, 0), 0);
  const inside = (width * height) / ((right - left) * (bottom - top));
  const frontal = clamp((PROFILE - Math.abs(turn)) / (PROFILE - FRONTAL), 0, 1);
  return { turn, inside, score: frontal * clamp((inside - LEAST_INSIDE) / (1 - LEAST_INSIDE), 0, 1) };
}

function trouble({ turn, inside }) {
  const cut = inside < 1 - (1 - LEAST_INSIDE) / 2 || Math.abs(turn) < FRONTAL;
  return cut ? "cut by the photo's border" : "turned to the side";
}

/** Those of the faces that can be aged. Raises an Error with a text for users if there is none. */
export function usable(faces, photo) {
  if (!faces.length) {
    throw new Error("No face was found. Use a photo in which a face is upright and turned to the camera.");
  }
  const good = faces.filter((face) => quality(face, photo).score > 0);
  if (!good.length) {
    throw new Error(`The face is ${trouble(quality(faces[0], photo))}. Use a photo that shows the whole face.`);
  }
  return good;
}

/** What a user should expect of a face, if it is not the best; else "". */
export function warning(face, photo) {
  const found = quality(face, photo);
  if (found.score < DOUBTFUL) return ` The face is ${trouble(found)}: expect a poor result.`;
  return face.box[2] - face.box[0] < SMALL_FACE ? " The face is small: expect little detail." : "";
}
