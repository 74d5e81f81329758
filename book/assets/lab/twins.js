// The card of two heads that are each enough and neither needed, or come nearest, and of two cells that are, found by
// tools/lab/twins.py.

import { GAP, make, percent } from "./dom.js";
import { NAMES, siteOf, tokenName } from "./state.js";

/** The card of a manifest; `carry(scene, sites)` shows a pair and carries sites in it. */
export function drawTwins(manifest, carry) {
  return make("section", { className: "lab-card", "aria-label": "Two heads, each enough, neither needed" },
    make("p", { className: "lab-title" }, make("strong", {}, "Two heads, each enough, neither needed?"),
      "If two heads carry the same message, either brings it, and without one the other still does."),
    heads(manifest, carry), cells(manifest, carry));
}

function sceneOf(manifest, pair) {
  return manifest.scenes.find((one) => one.id === pair);
}

/** Buttons that carry either of two lists of sites, or both. */
function buttons(scene, [first, second], carry) {
  const button = (text, carried) =>
    make("button", { type: "button", onclick: () => carry(scene, carried) }, text);
  return make("div", { className: "lab-controls" }, button("Carry the first", first),
    button("Carry the second", second), button("Carry both", [...first, ...second]));
}

/** The two heads, with what the search measured. */
function heads(manifest, carry) {
  const { pair, heads: two, enough, needed, found, bounds } = manifest.twins;
  const scene = sceneOf(manifest, pair);
  const sites = two.map(([component, layer, head]) =>
    scene.ids.map((_, token) => siteOf(scene, component, layer, token, head)));
  const name = ([component, layer, head]) => `head ${head} of ${NAMES[component].toLowerCase()}, layer ${layer}`;
  const one = (i) => `gives ${percent(enough[i])} and costs ${percent(needed[i])}`;
  const verdict = found
    ? "Two heads of this model are each enough, and neither is needed."
    : `No two heads do so on the ${manifest.scenes.length} pairs of this page if “enough” is at least ` +
      `${bounds.enough} % of ${GAP}, “needed” costs more than ${bounds.needed} %, and both together are needed. ` +
      "These come nearest.";
  return make("div", {},
    make("p", {}, `${verdict} In “${scene.question}”, ${name(two[0])}, at all tokens ${one(0)} when it is taken ` +
      `away; ${name(two[1])}, ${one(1)}; both together give ${percent(enough[2])} and cost ${percent(needed[2])}.`),
    buttons(scene, sites, carry));
}

/** The two cells, if there are any; their numbers come from the patched runs that a button starts. */
function cells(manifest, carry) {
  const asked = "if “enough” only asks that the answer flips, and “needed” that it does so when the cell is taken away";
  if (!manifest.twin_cells) return make("p", {}, `Nor do two cells of one layer's outputs, ${asked}.`);
  const { pair, cells: two, margin } = manifest.twin_cells;
  const scene = sceneOf(manifest, pair);
  const sites = two.map(([layer, role]) => [siteOf(scene, "layer_output", layer, scene.roles.indexOf(role), null)]);
  const names = sites.map(([site]) => `“${tokenName(scene, site.token)}”`).join(" and ");
  const figure = make("a", { href: "03_first_patch.html#figure-3.4" }, "Figure 3.4");
  return make("div", {},
    make("p", {}, `Two cells of one layer's outputs do, ${asked}, as in `, figure,
      `: in “${scene.question}”, those of layer ${two[0][0]} at ${names}. The closest of these runs is only ` +
      `${margin.toFixed(2)} logits beyond zero. Carry them, and read all numbers from the table above.`),
    buttons(scene, sites, carry));
}
