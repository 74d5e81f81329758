// Heads as points: how much each looks at what is asked about, against what it moves.

import { GAP, signed } from "./dom.js";

const [WIDTH, HEIGHT, LEFT, BOTTOM, TOP] = [360, 220, 44, 36, 12];

/** The ranks of values from the smallest, 1, on; equal values share the mean of theirs. */
export function ranks(values) {
  return values.map((value) =>
    values.filter((other) => other < value).length + (values.filter((other) => other === value).length + 1) / 2);
}

/** {element, correlation} of points {x, y, name, marked}: x and y in percent, and the correlation of their ranks. */
export function scatter(points) {
  const correlation = correlated(ranks(points.map(({ x }) => x)), ranks(points.map(({ y }) => y)));
  const [xs, ys] = [[0, ...points.map(({ x }) => x)], [0, ...points.map(({ y }) => y)]];
  const scale = (low, high, from, to) => (value) => from + ((value - low) / (high - low || 1)) * (to - from);
  const x = scale(0, Math.max(...xs), LEFT, WIDTH - 12);
  const y = scale(Math.min(...ys), Math.max(...ys), HEIGHT - BOTTOM, TOP);
  const dots = points.map((point) =>
    svg("circle", {
      cx: x(point.x), cy: y(point.y), r: point.marked ? 6 : 4,
      class: `${point.y < 0 ? "lab-dot lab-dot-away" : "lab-dot"} ${point.marked ? "lab-dot-marked" : ""}`,
    }, svg("title", {}, `${point.name}: looks ${point.x.toFixed(0)} %, moves ${signed(point.y, 1)} %`)));
  const element = svg("svg", {
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "lab-scatter", role: "img",
    "aria-label": "Attention on what is asked about against effect, one point a head. Their rank correlation is " +
      `${signed(correlation, 2)}.`,
  },
    svg("line", { x1: LEFT, x2: WIDTH, y1: y(0), y2: y(0) }),
    svg("line", { x1: LEFT, x2: LEFT, y1: TOP, y2: HEIGHT - BOTTOM }),
    ...[Math.min(...ys), 0, Math.max(...ys)].map((value) =>
      svg("text", { x: LEFT - 4, y: y(value) + 4, "text-anchor": "end" }, signed(value, 0))),
    ...[0, Math.max(...xs)].map((value) =>
      svg("text", { x: x(value), y: HEIGHT - BOTTOM + 14, "text-anchor": "middle" }, value.toFixed(0))),
    svg("text", { x: LEFT, y: HEIGHT - 6 }, "attention on what is asked about, % of all"),
    svg("text", { x: LEFT + 6, y: TOP + 2 }, `moved, % of ${GAP}`),
    ...dots);
  return { element, correlation };
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** Pearson's correlation. */
function correlated(a, b) {
  const centred = (values) => {
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    return values.map((value) => value - mean);
  };
  const dot = (first, second) => first.reduce((sum, value, i) => sum + value * second[i], 0);
  const [x, y] = [centred(a), centred(b)];
  return dot(x, y) / Math.sqrt(dot(x, x) * dot(y, y));
}
