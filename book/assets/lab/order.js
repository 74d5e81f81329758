// How the order in which heads were picked compares to the order of what they move.

/** A sentence for the effects of the picks, in their order; "" for fewer than two. */
export function comparedOrder(effects) {
  if (effects.length < 2) return "";
  const places = effects.map((_, i) => i);
  const pairs = places.flatMap((j) => places.slice(0, j).map((i) => [i, j]));
  const right = pairs.filter(([i, j]) => effects[i] >= effects[j]).length;
  if (right === pairs.length) return "Your order is that of what they move.";
  const measured = places.sort((a, b) => effects[b] - effects[a]).map((i) => i + 1).join(", ");
  return `By what they move, the order of your picks is ${measured}: of their ${pairs.length} pairs, ${right} ` +
    `${right === 1 ? "stands" : "stand"} as you put them.`;
}
