// Reads an image's bytes exactly. A canvas may change them: some browsers add noise to what a page reads from one.

import { fetchedBytes } from "./fetched.js";

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

/** The pixels of a PNG at an address, as of `decodePng`. */
export async function fetchPng(url) {
  return decodePng(await fetchedBytes(url));
}

/** The pixels of a PNG of 8-bit RGB without interlacing: {width, height, pixels}, 3 bytes a pixel. */
async function decodePng(bytes) {
  if (!SIGNATURE.every((value, i) => bytes[i] === value)) throw new Error("This image is no PNG.");
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const packed = [];
  let width, height;
  for (let at = 8; at < bytes.length; ) {
    const length = view.getUint32(at);
    const name = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (name === "IHDR") {
      [width, height] = [view.getUint32(at + 8), view.getUint32(at + 12)];
      const [depth, colour, , , interlaced] = bytes.subarray(at + 16, at + 21);
      if (depth !== 8 || colour !== 2 || interlaced) throw new Error("This PNG is not of 8-bit RGB.");
    }
    if (name === "IDAT") packed.push(bytes.subarray(at + 8, at + 8 + length));
    at += length + 12;
  }
  return { width, height, pixels: unfilter(await inflate(packed, "deflate"), width, height) };
}

/** The bytes that some packed parts hold; `format` is "deflate" or "gzip". */
export async function inflate(parts, format) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream(format));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Undo the filter of each row, which its first byte names (PNG specification, section 9). */
function unfilter(rows, width, height) {
  const stride = 3 * width;
  const pixels = new Uint8Array(height * stride);
  for (let y = 0; y < height; y++) {
    const filter = rows[y * (stride + 1)];
    for (let x = 0; x < stride; x++) {
      const at = y * stride + x;
      const left = x < 3 ? 0 : pixels[at - 3];
      const above = y ? pixels[at - stride] : 0;
      const corner = x < 3 || !y ? 0 : pixels[at - stride - 3];
      pixels[at] = rows[y * (stride + 1) + 1 + x] + predicted(filter, left, above, corner);
    }
  }
  return pixels;
}

function predicted(filter, left, above, corner) {
  switch (filter) {
    case 0: return 0;
    case 1: return left;
    case 2: return above;
    case 3: return (left + above) >> 1;
  }
  const [toLeft, toAbove] = [Math.abs(above - corner), Math.abs(left - corner)];
  const toCorner = Math.abs(left + above - 2 * corner);
  if (toLeft <= toAbove && toLeft <= toCorner) return left;
  return toAbove <= toCorner ? above : corner;
}
