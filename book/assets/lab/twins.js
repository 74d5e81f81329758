// The card of two heads that are each enough and neither needed, or come nearest, found by tools/lab/twins.py.

import { GAP, make, percent } from "./dom.js";
import { NAMES, siteOf } from "./state.js";

/** The card of a manifest; `carry(scene, sites)` shows a pair and carries sites in it. */
export function drawTwins(manifest, carry) {
  const { pair, heads, enough, needed, found, bounds } = manifest.twins;
  const scene = manifest.scenes.find((one) => one.id === pair);
  const sites = heads.map(([component, layer, head]) =>
    scene.ids.map((_, token) => siteOf(scene, component, layer, token, head)));
  const name = ([component, layer, head]) => `head ${head} of ${NAMES[component].toLowerCase()}, layer ${layer}`;
  const button = (text, carried) =>
    make("button", { type: "button", onclick: () => carry(scene, carried) }, text);
  const one = (i) => `gives ${percent(enough[i])} and costs ${percent(needed[i])}`;
  const verdict = found
    ? "Two heads of this model are each enough, and neither is needed."
    : `No two heads do so on the ${manifest.scenes.length} pairs of this page if “enough” is at least ` +
      `${bounds.enough} % of ${GAP}, “needed” costs more than ${bounds.needed} %, and both together are needed. ` +
      "These come nearest.";
  return make("section", { className: "lab-card", "aria-label": "Two heads, each enough, neither needed" },
    make("p", { className: "lab-title" }, make("strong", {}, "Two heads, each enough, neither needed?"),
      "If two heads carry the same message, either brings it, and without one the other still does."),
    make("p", {}, `${verdict} In “${scene.question}”, ${name(heads[0])}, at all tokens ${one(0)} when it is ` +
      `taken away; ${name(heads[1])}, ${one(1)}; both together give ${percent(enough[2])} and cost ${percent(needed[2])}.`),
    make("div", { className: "lab-controls" }, button("Carry the first", sites[0]),
      button("Carry the second", sites[1]), button("Carry both", sites.flat())));
}
