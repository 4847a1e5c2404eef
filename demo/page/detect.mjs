// Find faces: BlazeFace on the whole photo at several scales and, again, on each face found, as
// edgeage.runtime.photo.detect does, whose comments say why.

import { INPUT, distinct, look, mean, moved } from "./blazeface.mjs";
import { corrected } from "./landmarks.mjs";
import { roundEven } from "./numbers.mjs";
import { reduce } from "./picture.mjs";
import { resample } from "./resample.mjs";
import { shrunk } from "./resize.mjs";

const FINAL_SCORE = 0.6;
const FINAL_SCORE_SMALL = 0.7;
const WORKING_SIDE = 512;
const SQUARES = [1.8, 1.0, 0.55];
const SMALL_SQUARES = [0.28];
const SOFT = 0.75;
const DECIDING = { share: 0.4, tilt: 0 };
const PLACING = [{ share: 0.4, tilt: -10 }, { share: 0.4, tilt: 10 }, { share: 0.5, tilt: 0 }];

/**
 * Faces of a photo, the largest first: {box: [left, top, right, bottom], keypoints, score}. Keypoints: eye at
 * the image's left, eye at its right, nose tip, mouth centre, ears. Small faces are searched for if no
 * others are found.
 */
export async function findFaces(network, photo) {
  const working = reduce(photo, Math.max(Math.trunc(Math.max(photo.width, photo.height) / WORKING_SIDE), 1));
  let faces = await closer(network, photo, await search(network, photo, working, SQUARES), FINAL_SCORE);
  if (!faces.length) {
    const candidates = await search(network, photo, working, SMALL_SQUARES);
    faces = await closer(network, photo, candidates, FINAL_SCORE_SMALL);
  }
  const placed = [];
  for (const face of faces) placed.push(await place(network, photo, face));
  return placed.sort((a, b) => b.box[2] - b.box[0] - (a.box[2] - a.box[0]));
}

/** Candidates from squares of several sizes laid over the photo. */
async function search(network, photo, working, squares) {
  const found = [];
  for (const square of squares) {
    const zoom = (square * Math.max(photo.width, photo.height)) / INPUT;
    const [width, height] = [photo.width, photo.height].map((side) => Math.max(roundEven(side / zoom), 1));
    const small = shrunk(working, width, height);
    const [across, down] = [photo.width / width, photo.height / height];
    for (const { left, top, picture } of tiles(small)) {
      const view = [across, 0, left * across, 0, down, top * down];
      for (const face of await look(network, picture, false)) found.push(moved(face, view));
    }
  }
  return distinct(found);
}

/** Candidates that are still faces when seen upright and zoomed in, placed anew. */
async function closer(network, photo, candidates, least) {
  const faces = [];
  for (const candidate of candidates) {
    const [first] = await looks(network, photo, candidate, DECIDING, [false]);
    if (!first) continue;
    const [second] = await looks(network, photo, first, DECIDING, [false]); // from an exacter place
    if (second && second.score >= least) faces.push(second);
  }
  return distinct(faces);
}

/** A face placed by the mean of several looks. */
async function place(network, photo, face) {
  const seen = [];
  for (const way of PLACING) seen.push(...(await looks(network, photo, face, way, [false, true])));
  const { score, x, y, width, height, keypoints } = mean(seen.length ? seen : [face]);
  return {
    box: [x - width / 2, y - height / 2, x + width / 2, y + height / 2],
    keypoints: corrected(keypoints),
    score: seen.length ? seen.reduce((sum, one) => sum + one.score, 0) / seen.length : score,
  };
}

/** What is seen in a face's place, if anything, when its box has `share` of the picture. */
async function looks(network, photo, face, { share, tilt }, mirrors) {
  const view = upright(face, share, tilt);
  const picture = resample(photo, view, [INPUT, INPUT], { black: true, oversampling: SOFT });
  const found = [];
  for (const mirrored of mirrors) {
    const faces = (await look(network, picture, mirrored)).map((seen) => moved(seen, view));
    const near = faces.find((seen) => Math.hypot(seen.x - face.x, seen.y - face.y) < face.width / 2);
    if (near) found.push(near);
  }
  return found;
}

/** The view in which the eyes lie `tilt` degrees from level and the box has `share` of the picture. */
function upright({ x, y, width, keypoints: [left, right] }, share, tilt) {
  const angle = Math.atan2(right[1] - left[1], right[0] - left[0]) + (tilt * Math.PI) / 180;
  const zoom = width / (share * INPUT);
  const [cos, sin] = [zoom * Math.cos(angle), zoom * Math.sin(angle)];
  const middle = INPUT / 2;
  return [cos, -sin, x - (cos - sin) * middle, sin, cos, y - (sin + cos) * middle];
}

/** 128x128 pictures that cover a photo, overlapping by half; black beyond it. */
function* tiles(photo) {
  for (const top of starts(photo.height)) {
    for (const left of starts(photo.width)) {
      const picture = photo.like(INPUT, INPUT);
      const { channels } = photo;
      const [x0, x1] = [Math.max(left, 0), Math.min(left + INPUT, photo.width)];
      for (let y = Math.max(top, 0); y < Math.min(top + INPUT, photo.height); y++) {
        const row = photo.data.subarray((y * photo.width + x0) * channels, (y * photo.width + x1) * channels);
        picture.data.set(row, ((y - top) * INPUT + x0 - left) * channels);
      }
      yield { left, top, picture };
    }
  }
}

function starts(length) {
  if (length <= INPUT) return [-Math.floor((INPUT - length) / 2)];
  const count = Math.ceil((length - INPUT) / (INPUT / 2)) + 1;
  return Array.from({ length: count }, (_, i) => roundEven((i * (length - INPUT)) / (count - 1)));
}
