// How single heads are named.

/** In the page's address: layer and head. */
export function keyOf({ layer, head }) {
  return `${layer}.${head}`;
}

/** In sentences. */
export function short({ layer, head }) {
  return `L${layer}.H${head}`;
}
