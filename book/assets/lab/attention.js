// A head's attention over a picture: the picture stays bright where the head looks, and is dark elsewhere.

import { make } from "./dom.js";

const DARKEST = 0.85;
const LARGE = 288; // pixels of the large map

/** A dark veil of `side` x `side` patches, which is thin where `map` (a byte each) is large, as a canvas. */
function veil(map, side) {
  const canvas = make("canvas", { width: side, height: side });
  const data = new ImageData(side, side);
  map.forEach((value, i) => { data.data[4 * i + 3] = DARKEST * (255 - value); });
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}

/** A picture at an address, loaded. */
export async function pictureAt(url) {
  const picture = make("img", { src: url });
  await picture.decode();
  return picture;
}

/** A CSS background of a picture under its veil. */
export function lit(picture, map, side) {
  return `url(${veil(map, side).toDataURL()}), url(${picture.src})`;
}

/** A large canvas of the same, with a line around the patches whose numbers are in `outlined`. */
export function spotlight(picture, map, side, outlined) {
  const canvas = make("canvas", { width: LARGE, height: LARGE, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0, LARGE, LARGE);
  context.imageSmoothingEnabled = false;
  context.drawImage(veil(map, side), 0, 0, LARGE, LARGE);
  outline(context, new Set(outlined), side);
  return canvas;
}

/** A white line on black between patches that are in a set and those that are not. */
function outline(context, patches, side) {
  const step = LARGE / side;
  context.beginPath();
  for (const patch of patches) {
    const [x, y] = [patch % side, Math.floor(patch / side)];
    const edges = [
      [x > 0 && patches.has(patch - 1), x, y, x, y + 1],
      [x < side - 1 && patches.has(patch + 1), x + 1, y, x + 1, y + 1],
      [patches.has(patch - side), x, y, x + 1, y],
      [patches.has(patch + side), x, y + 1, x + 1, y + 1],
    ];
    for (const [inside, fromX, fromY, toX, toY] of edges) {
      if (inside) continue;
      context.moveTo(fromX * step, fromY * step);
      context.lineTo(toX * step, toY * step);
    }
  }
  for (const [colour, width] of [["#000", 4], ["#fff", 1.5]]) {
    [context.strokeStyle, context.lineWidth] = [colour, width];
    context.stroke();
  }
}
