// Take BlazeFace's eyes to where the middle of the eyes is; see edgeage.runtime.photo.landmarks, whose fitted
// numbers these are (a test compares them).

// The shift of the eye at the image's left in eye distances, along the line of the eyes and across it, from the
// nose tip, mouth centre, left and right ear (x, y in eye distances from the middle of the eyes) and 1.
const SHIFT = [
  [0.04, -0.114, 0.06, 0.151, 0.236, 0.011, -0.162, -0.027, 0.331],
  [-0.031, -0.151, -0.123, 0.019, -0.035, -0.097, -0.043, -0.003, 0.103],
];
const MIRRORED = [0, 1, 3, 2]; // nose, mouth, ears

/** Six keypoints with the eyes moved, the others as they are. */
export function corrected(keypoints) {
  const [left, right, ...rest] = keypoints;
  const distance = Math.hypot(right[0] - left[0], right[1] - left[1]);
  if (!distance) return keypoints;
  const [cos, sin] = [(right[0] - left[0]) / distance, (right[1] - left[1]) / distance];
  const middle = [(left[0] + right[0]) / 2, (left[1] + right[1]) / 2];
  const others = rest.map(([x, y]) => {
    const [u, v] = [(x - middle[0]) / distance, (y - middle[1]) / distance];
    return [cos * u + sin * v, -sin * u + cos * v];
  });
  const mirrored = MIRRORED.map((k) => [-others[k][0], others[k][1]]);
  const eye = (place, mirror, seen) => {
    const numbers = [...seen.flat(), 1];
    const [along, across] = SHIFT.map((row) => row.reduce((sum, weight, i) => sum + weight * numbers[i], 0));
    const [u, v] = [along * mirror * distance, across * distance];
    return [place[0] + u * cos - v * sin, place[1] + u * sin + v * cos];
  };
  return [eye(left, 1, others), eye(right, -1, mirrored), ...rest];
}
