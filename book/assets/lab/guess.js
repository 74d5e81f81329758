// Predict first: the reader commits a guess, and only then sees the map, which judges it.

import { make, percent } from "./dom.js";

/**
 * A form that asks for the strongest cell and the number of cells that flip the answer by themselves. `rows` are
 * names, `kind` is "cells" or "heads"; `commit({row, layer, flips})` is called once.
 */
export function askGuess({ rows, layers, kind, commit }) {
  const list = (names) => make("select", {}, names.map((name, value) => make("option", { value }, name)));
  const [row, layer] = [list(rows), list(Array.from({ length: layers }, (_, i) => `layer ${i}`))];
  const count = rows.length * layers;
  const flips = make("input", { type: "number", min: 0, max: count, value: "", required: true, inputMode: "numeric" });
  const one = kind.slice(0, -1);
  return make("form", {
    className: "lab-guess",
    onsubmit: (event) => {
      event.preventDefault();
      commit({ row: Number(row.value), layer: Number(layer.value), flips: Number(flips.value) });
    },
  },
    make("strong", {}, "Predict first. "),
    make("label", {}, `In “Enough here?”, the ${one} that moves the answer most by itself is `, row),
    make("label", {}, "in ", layer),
    make("label", {}, `and this many of the ${count} ${kind} flip the answer by themselves: `, flips),
    make("button", { type: "submit" }, `Commit, and measure all ${count} ${kind}`));
}

/** What the map says of a guess: `cells[row][layer]` are {share, flips} of denoising. */
export function judge(guess, rows, cells) {
  const name = (row, layer) => `“${rows[row]}” in layer ${layer}`;
  const all = cells.flatMap((layers, row) => layers.map((cell, layer) => ({ ...cell, row, layer })));
  const ranked = [...all].sort((a, b) => b.share - a.share);
  const rank = 1 + ranked.findIndex(({ row, layer }) => row === guess.row && layer === guess.layer);
  const { share } = cells[guess.row][guess.layer];
  const flips = all.filter((cell) => cell.flips).length;
  const best = ranked[0];
  const strongest = rank === 1 ? "It is the strongest." :
    `The strongest is ${name(best.row, best.layer)}, with ${percent(best.share)}.`;
  const counted = flips === guess.flips ? "Your number of those that flip the answer is right." :
    `You guessed that ${guess.flips} flip the answer by themselves; it is ${flips}.`;
  return `Your guess, ${name(guess.row, guess.layer)}, moves the answer by ${percent(share)}: rank ${rank} of ` +
    `${all.length}. ${strongest} ${counted}`;
}
