// Affine maps of the plane as [a, b, c, d, e, f]: (x, y) -> (a x + b y + c, d x + e y + f).
// Coordinates are continuous: pixel i of a row covers [i, i + 1), so its centre lies at i + 0.5.

export function apply([a, b, c, d, e, f], [x, y]) {
  return [a * x + b * y + c, d * x + e * y + f];
}

export function invert([a, b, c, d, e, f]) {
  const determinant = a * e - b * d;
  const [p, q, r, s] = [e / determinant, -b / determinant, -d / determinant, a / determinant];
  return [p, q, -(p * c + q * f), r, s, -(r * c + s * f)];
}

/** How many times longer a map makes lengths, on average over directions. */
export function zoom([a, b, , d, e]) {
  return Math.sqrt(Math.abs(a * e - b * d));
}

/** `map` followed by an enlargement. */
export function enlarged(map, times) {
  return map.map((value) => value * times);
}

/** `map` followed by a shift. */
export function shifted([a, b, c, d, e, f], x, y) {
  return [a, b, c + x, d, e, f + y];
}

/**
 * The rotation, scale and shift that takes points [[x, y], ...] nearest to `target` in the least squares; no
 * reflection. Umeyama 1991, which in the plane needs no singular values.
 */
export function similarity(source, target) {
  const [sourceX, sourceY] = mean(source);
  const [targetX, targetY] = mean(target);
  let [along, across, size] = [0, 0, 0];
  source.forEach(([x, y], i) => {
    const [u, v] = [x - sourceX, y - sourceY];
    const [s, t] = [target[i][0] - targetX, target[i][1] - targetY];
    along += u * s + v * t;
    across += u * t - v * s;
    size += u * u + v * v;
  });
  const [cos, sin] = [along / size, across / size];
  return [
    cos, -sin, targetX - (cos * sourceX - sin * sourceY),
    sin, cos, targetY - (sin * sourceX + cos * sourceY),
  ];
}

function mean(points) {
  return [0, 1].map((axis) => points.reduce((sum, point) => sum + point[axis], 0) / points.length);
}
