// Pictures {width, height, pixels}, 3 bytes a pixel, as of png.js.

import { make } from "./dom.js";

/** A canvas of a picture, with a text in place of it. */
export function canvasOf({ width, height, pixels }, label) {
  const canvas = make("canvas", { width, height, className: "lab-picture", role: "img", "aria-label": label });
  const data = new ImageData(width, height);
  for (let i = 0; i < width * height; i++) {
    data.data.set(pixels.subarray(3 * i, 3 * i + 3), 4 * i);
    data.data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(data, 0, 0);
  return canvas;
}

/** A picture of one grey. */
export function blank(size, level) {
  return { width: size, height: size, pixels: new Uint8Array(3 * size * size).fill(level) };
}

/** The second picture where it is not the first, faded elsewhere; and the share of pixels that differ. */
export function changes(first, second) {
  const pixels = second.pixels.map((value) => 215 + value * 0.15);
  let changed = 0;
  for (let i = 0; i < pixels.length; i += 3) {
    if ([0, 1, 2].every((c) => first.pixels[i + c] === second.pixels[i + c])) continue;
    pixels.set(second.pixels.subarray(i, i + 3), i);
    changed += 3;
  }
  return { picture: { ...second, pixels }, share: changed / pixels.length };
}

/** A file's image, drawn by the browser into a square. Transparent parts become white. */
export async function fromFile(file, size) {
  const image = await createImageBitmap(file);
  const context = make("canvas", { width: size, height: size }).getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "white";
  context.fillRect(0, 0, size, size);
  context.drawImage(image, 0, 0, size, size);
  const { data } = context.getImageData(0, 0, size, size);
  return { width: size, height: size, pixels: data.filter((_, i) => i % 4 < 3) };
}
