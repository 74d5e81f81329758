// Two heads switched off in the clean run, one at a time and together, in four ways.

import { remember, remembered } from "./address.js";
import { GAP, make, percent, table } from "./dom.js";
import { fetchedBytes } from "./fetched.js";
import { keyOf } from "./heads.js";
import { moved } from "./moved.js";
import { tried } from "./tried.js";

const WAYS = {
  mean: "the mean over many scenes",
  right: "another scene's, where the option at the same place is right",
  wrong: "another scene's, where the option at the same place is wrong",
  zero: "zero (out of distribution: no picture gives it)",
};
const ABOUT = 1; // Percent by which a joint loss may differ from the sum and still be called about the same.

/**
 * Show the section's last part in an element. `unpatched` has the scores of the scene's two runs, `sites` are all
 * heads, and `strongest` the two that are switched off unless the address names others.
 */
export async function switchOff({ lab, index, scene, sites, strongest, unpatched }, element) {
  const named = (remembered().get("off") ?? "").split(" ").map((name) => sites.find((site) => keyOf(site) === name));
  const heads = named.length === 2 && named.every(Boolean) && named[0] !== named[1] ? named : strongest;
  const { buffer } = await fetchedBytes(new URL(`looks/${scene.id}-values.raw`, lab.url));
  const values = new Float32Array(buffer);
  const choices = heads.map((head, i) =>
    make("select", { onchange: ({ target }) => tried(element, said, () => choose(i, target.value)) },
      sites.map((site) =>
        make("option", { value: site.key, selected: site === head }, `${site.layer}, head ${site.head}`))));
  const numbers = make("div");
  const said = make("p", { className: "lab-result", role: "status" });
  element.append(
    make("p", { className: "lab-title" }, make("strong", {}, "Switch two heads off")),
    make("p", {}, "In the clean run, something else is written in place of a head's output at this token. What does " +
      `that move, in percent of ${GAP}? Minus is lost of the clean answer.`),
    make("div", { className: "lab-controls" },
      ...choices.map((choice, i) => make("label", {}, `Head ${"AB"[i]}: layer `, choice))),
    numbers, said);
  await show();

  async function choose(i, key) {
    heads[i] = sites.find((site) => site.key === key);
    remember({ off: heads.map(keyOf).join(" ") });
    await show();
  }

  /** What [A alone, B alone, both] lose, for each source of a way; in percent. */
  async function lost(source) {
    const given = { component: index.component, token: heads[0].token, values: source };
    const patches = [[heads[0]], [heads[1]], heads];
    const scores = await lab.client.write(scene.id, given, patches);
    return scores.map((score) => moved(unpatched, "clean", score));
  }

  async function show() {
    const chosen = [...heads];
    const size = lab.manifest.shape.layers * lab.manifest.shape.width;
    const sources = { zero: [new Float32Array(size)] };
    for (const [way, [from, to]] of Object.entries(index.sources)) {
      const places = Array.from({ length: to - from }, (_, i) => (from + i) * size);
      sources[way] = places.map((place) => values.subarray(place, place + size));
    }
    said.textContent = "Measuring ...";
    const rows = {};
    for (const way of Object.keys(WAYS)) {
      rows[way] = mean(await Promise.all(sources[way].map(lost)));
    }
    if (chosen.some((head, i) => head !== heads[i])) return;
    numbers.replaceChildren(drawn(rows));
    said.textContent = sentence(rows.mean);
  }
}

function drawn(rows) {
  const heading = ["Written in its place", "A alone", "B alone", "A + B, added up", "both at once"];
  return table("What switching off moves", heading, Object.entries(rows).map(([way, [a, b, both]]) =>
    [WAYS[way], ...[a, b, a + b, both].map((value) => percent(value, 1))]));
}

function sentence([a, b, both]) {
  const start = `With their means written, both at once move the answer by ${percent(both, 1)}; one at a time, they ` +
    `add up to ${percent(a + b, 1)}. `;
  if (Math.abs(both - a - b) < ABOUT) return `${start}That is about the same: neither head stands in for the other.`;
  if (both < a + b) return `${start}Together they are missed more: each stands in for the other, as a backup.`;
  return `${start}Together they are missed less than the sum says: one may work through the other.`;
}

function mean(lists) {
  return lists[0].map((_, i) => lists.reduce((sum, list) => sum + list[i], 0) / lists.length);
}
