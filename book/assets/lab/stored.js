// What the book measured at the same place on many pairs: data/results, and the spread over pairs.

import { fetched } from "./fetched.js";

const files = new Map(); // url -> its content

/** {mean, low, high, pairs, deciles} in percent of L - L*, or undefined where the book measured nothing. */
export async function storedAt(url, scene, site) {
  const file = new URL(`stored/${scene.task}-${scene.slot}.json`, url).href;
  if (!files.has(file)) files.set(file, await (await fetched(file)).json());
  const role = scene.roles[site.token];
  const key = [site.component, role, site.layer, ...(site.head === null ? [] : [site.head])].join(".");
  const row = files.get(file)[key];
  if (!row) return undefined;
  const [mean, low, high, pairs, ...deciles] = row;
  return { mean, low, high, pairs, deciles };
}

/** The percent of pairs that lie below a value, read between the deciles; among equal ones, the middle. */
export function percentile(value, deciles) {
  const rounded = Math.round(10 * value) / 10; // As the deciles are.
  const below = deciles.filter((one) => one < rounded).length;
  const upTo = deciles.filter((one) => one <= rounded).length;
  if (upTo > below) return Math.round(5 * (below + upTo - 1));
  if (below === 0) return 0;
  if (below === deciles.length) return 100;
  const [low, high] = [deciles[below - 1], deciles[below]];
  return Math.round(10 * (below - 1 + (rounded - low) / (high - low)));
}
