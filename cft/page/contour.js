// The outline of a heat map: marching squares (Lorensen and Cline 1987, in two dimensions) at half
// of the maximum, rounded between the points of the grid.

const HALF = 127.5; // of shares that reach from 0 to 255

/**
 * @param {Uint8ClampedArray} shares - RGBA of a grey picture, the shares of the maximum.
 * @param {number} w - its width.
 * @param {number} h - its height.
 * @param {number} width - of the film that it lies over, in pixels.
 * @param {number} height - of the film.
 * @returns {{path: Path2D, peak: {x: number, y: number}}} in pixels of the film.
 */
function outline(shares, w, h, width, height) {
  // With a border of nothing around it, every line closes.
  const at = (x, y) => (x < 0 || y < 0 || x >= w || y >= h ? 0 : shares[4 * (y * w + x)]);
  const next = new Map(); // where a piece begins -> [place, where it ends]
  const crossing = (x, y, dx, dy) => {
    const [a, b] = [at(x, y), at(x + dx, y + dy)];
    const share = (HALF - a) / (b - a);
    const place = [x + dx * share, y + dy * share];
    return { key: `${x},${y},${dx}`, place };
  };
  const join = (from, to) => next.set(from.key, [from.place, to.key]);
  let peak = { x: 0, y: 0, share: -1 };
  for (let y = -1; y < h; y++) {
    for (let x = -1; x < w; x++) {
      if (at(x, y) > peak.share) peak = { x, y, share: at(x, y) };
      const inside = [at(x, y), at(x + 1, y), at(x + 1, y + 1), at(x, y + 1)].map((v) => v > HALF);
      const kind = inside.reduce((sum, is, i) => sum + (is ? 1 << i : 0), 0);
      if (kind === 0 || kind === 15) continue;
      const top = () => crossing(x, y, 1, 0);
      const left = () => crossing(x, y, 0, 1);
      const right = () => crossing(x + 1, y, 0, 1);
      const bottom = () => crossing(x, y + 1, 1, 0);
      // The inside lies on the right of the way.
      const ways = {
        1: [[left, top]], 2: [[top, right]], 3: [[left, right]], 4: [[right, bottom]],
        5: [[left, top], [right, bottom]], 6: [[top, bottom]], 7: [[left, bottom]],
        8: [[bottom, left]], 9: [[bottom, top]], 10: [[top, right], [bottom, left]],
        11: [[bottom, right]], 12: [[right, left]], 13: [[right, top]], 14: [[top, left]],
      };
      for (const [from, to] of ways[kind]) join(from(), to());
    }
  }
  const [across, down] = [width / w, height / h];
  const path = new Path2D();
  while (next.size) {
    const points = [];
    let key = next.keys().next().value;
    while (next.has(key)) {
      const [place, to] = next.get(key);
      next.delete(key);
      points.push([(place[0] + 0.5) * across, (place[1] + 0.5) * down]);
      key = to;
    }
    rounded(path, points);
  }
  return { path, peak: { x: (peak.x + 0.5) * across, y: (peak.y + 0.5) * down } };
}

// A closed curve through the middles of the lines between points, which it touches.
function rounded(path, points) {
  const middle = (i) => {
    const [a, b] = [points[i % points.length], points[(i + 1) % points.length]];
    return [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];
  };
  path.moveTo(...middle(0));
  for (let i = 1; i <= points.length; i++) path.quadraticCurveTo(...points[i % points.length], ...middle(i));
  path.closePath();
}
