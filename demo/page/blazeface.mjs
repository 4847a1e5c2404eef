// BlazeFace (short range): a 128x128 picture in, the faces in it out. Bazarevsky et al. 2019.
// As edgeage.runtime.photo.blazeface. A face is {score, x, y, width, height, keypoints: six [x, y]}.

import { apply, zoom } from "./affine.mjs";

export const INPUT = 128;
const CANDIDATE_SCORE = 0.5; // below, an anchor saw nothing
const SAME_FACE = 0.3; // intersection over union above which two boxes are one face
const INSIDE = 0.6; // share of the smaller box in a better one above which it is a part of that face
const SWAPPED = [1, 0, 2, 3, 5, 4]; // the keypoints of a mirrored face
const ANCHORS = [...anchors(16, 2), ...anchors(8, 6)];

/** Centres, in pixels of the network's picture, of `each` anchors in every cell of a grid. */
function anchors(cells, each) {
  const centre = (i) => ((i + 0.5) * INPUT) / cells;
  return Array.from({ length: cells * cells * each }, (_, i) => {
    const cell = Math.floor(i / each);
    return [centre(cell % cells), centre(Math.floor(cell / cells))];
  });
}

/** Faces of a 128x128 picture in its pixels, best first; `mirrored` shows the network the mirror image. */
export async function look(network, picture, mirrored) {
  const { regressors, logits } = await network(networkInput(picture, mirrored));
  const faces = [];
  logits.forEach((logit, i) => {
    const score = 1 / (1 + Math.exp(-Math.min(Math.max(logit, -80), 80)));
    if (score < CANDIDATE_SCORE) return;
    const [anchorX, anchorY] = ANCHORS[i];
    const [x, y, width, height, ...rest] = regressors.subarray(i * 16, (i + 1) * 16);
    const at = (u, v) => [mirrored ? INPUT - (u + anchorX) : u + anchorX, v + anchorY];
    const points = SWAPPED.map((_, k) => at(rest[2 * k], rest[2 * k + 1]));
    const keypoints = mirrored ? SWAPPED.map((k) => points[k]) : points;
    const [centreX, centreY] = at(x, y);
    faces.push({ score, x: centreX, y: centreY, width, height, keypoints });
  });
  return distinct(faces, true);
}

const SIGNED = Float32Array.from({ length: 256 }, (_, byte) => Math.fround(byte / 127.5) - 1);

/** Bytes to [-1, 1], three channels, as all networks here take them. */
export function networkInput({ width, height, channels, data }, mirrored = false) {
  const out = new Float32Array(width * height * 3);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const from = (y * width + (mirrored ? width - 1 - x : x)) * channels;
      for (let channel = 0; channel < 3; channel++) out[at++] = SIGNED[data[from + channel]];
    }
  }
  return out;
}

/** A face of a picture in the coordinates that `view` maps its pixels to. */
export function moved(face, view) {
  const [x, y] = apply(view, [face.x, face.y]);
  const times = zoom(view);
  const keypoints = face.keypoints.map((point) => apply(view, point));
  return { score: face.score, x, y, width: face.width * times, height: face.height * times, keypoints };
}

/** One of each face, best score first. `average` weighs what overlaps by score (weighted NMS). */
export function distinct(faces, average = false) {
  let left = [...faces].sort((a, b) => b.score - a.score);
  const found = [];
  while (left.length) {
    const best = left[0];
    const shares = left.map((face) => overlap(face, best));
    const same = left.filter((face, i) => face === best || shares[i].union > SAME_FACE);
    found.push(average ? mean(same, same.map((face) => face.score)) : best);
    left = left.filter((face, i) => face !== best && shares[i].union <= SAME_FACE && shares[i].smaller <= INSIDE);
  }
  return found;
}

function overlap(a, b) {
  const along = (centre, size) =>
    Math.max(
      Math.min(a[centre] + a[size] / 2, b[centre] + b[size] / 2) -
        Math.max(a[centre] - a[size] / 2, b[centre] - b[size] / 2),
      0,
    );
  const shared = along("x", "width") * along("y", "height");
  const areas = [a.width * a.height, b.width * b.height];
  return { union: shared / (areas[0] + areas[1] - shared), smaller: shared / Math.min(...areas) };
}

/** The weighted mean of faces; its score is the first one's. */
export function mean(faces, weights = faces.map(() => 1)) {
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const of = (get) => faces.reduce((sum, face, i) => sum + weights[i] * get(face), 0) / total;
  return {
    score: faces[0].score,
    x: of((face) => face.x),
    y: of((face) => face.y),
    width: of((face) => face.width),
    height: of((face) => face.height),
    keypoints: SWAPPED.map((_, k) => [0, 1].map((axis) => of((face) => face.keypoints[k][axis]))),
  };
}
