// Cut a face out of a photo the way it lies in the training images, as edgeage.runtime.photo.align does.

import { invert, similarity } from "./affine.mjs";
import { resample } from "./resample.mjs";

const ALIGNED_BY = 4; // the first keypoints of a face: both eyes, nose tip, mouth centre
// Frames were measured with single looks of the detector; this is the mean of its looks minus that.
const SINCE_MEASURED = [[0.0069, 0.0036], [0.0034, 0.0002], [0.0121, -0.0017], [0.0125, 0.0006]];

/** The map from the aligned crop of `size` pixels to the photo. `frame`: the manifest's keypoints. */
export function cropToPhoto(face, frame, size) {
  const target = frame.map(([x, y], k) => [(x + SINCE_MEASURED[k][0]) * size, (y + SINCE_MEASURED[k][1]) * size]);
  return invert(similarity(face.keypoints.slice(0, ALIGNED_BY), target));
}

/** The aligned crop; beyond the photo its border is repeated. */
export function align(photo, map, size) {
  return resample(photo, map, [size, size], { oversampling: 2 });
}
