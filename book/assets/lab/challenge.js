// The challenge: the fewest cells that bring the clean answer back, scored on pairs that the reader has not seen.

import { GAP, make, percent, table } from "./dom.js";
import { fetched } from "./fetched.js";
import { moved } from "./moved.js";
import { barred } from "./rules.js";
import { tried } from "./tried.js";

const TASK =
  "Bring the clean answer back in “Enough here?” with as few cells as you can. The last layer's outputs from which the " +
  "answer is read do not count, nor do more than half of a layer's cells, nor a cell that holds a whole image: they " +
  "copy most of a run at once. The score is on eight other pairs of the same layout: what your cells move there, " +
  "beyond what the same cells move when they come from unrelated donors, the clean runs of other scenes with none of " +
  "the pair's words.";

/** How many cells are carried, whether they count, and the fewest so far. */
function standing(manifest, scene, sites, back, fewest) {
  if (!sites.length) return "You carry nothing yet.";
  const number = `You carry ${sites.length} ${sites.length === 1 ? "cell" : "cells"}.`;
  const reason = barred(manifest, scene, sites);
  if (reason) return `${number} They do not count: ${reason}.`;
  const record = fewest === undefined ? "" : ` Your fewest on this pair: ${fewest}.`;
  return `${number} ${back ? "The clean answer is back." : "The clean answer is not back yet."}${record}`;
}

export class Challenge {
  #lab;
  #scene;
  #sites = [];
  #unseen = new Map(); // group -> scenes
  #fewest = new Map(); // scene's id -> number of cells
  #standing = make("p", { role: "status" });
  #progress = make("p", { role: "status" });
  #result = make("div");
  #score = make("button", { type: "button", onclick: () => this.#start() }, "Score on eight unseen pairs");

  constructor(lab) {
    this.#lab = lab;
    this.element = make("section", { className: "lab-challenge", "aria-label": "The challenge" },
      make("p", { className: "lab-title" }, make("strong", {}, "The challenge: fewest cells"), TASK),
      this.#standing, this.#score, this.#progress, this.#result);
  }

  /** Take what the reader carries; `back` says whether the corrupt run now gives the clean answer. */
  show(scene, sites, back) {
    [this.#scene, this.#sites] = [scene, sites];
    const counts = sites.length > 0 && back && !barred(this.#lab.manifest, scene, sites);
    if (counts) this.#fewest.set(scene.id, Math.min(sites.length, this.#fewest.get(scene.id) ?? Infinity));
    this.#standing.textContent = standing(this.#lab.manifest, scene, sites, back, this.#fewest.get(scene.id));
    this.#score.disabled = !counts;
    this.#progress.textContent = "";
    this.#result.replaceChildren();
  }

  async #start() {
    const sites = this.#sites;
    this.#score.disabled = true;
    await tried(this.element, this.#progress, () => this.#measure(sites));
    if (sites === this.#sites) this.#score.disabled = false; // Otherwise `show` has decided for what is carried now.
  }

  async #measure(sites) {
    const unseen = (await this.#meet(this.#scene.group)).filter((scene) => scene.donors.length);
    const rows = [];
    for (const scene of unseen) {
      this.#progress.textContent = `Pair ${rows.length + 1} of ${unseen.length} ...`;
      rows.push(await this.#row(scene, sites));
      if (sites !== this.#sites) return; // The reader has changed what is carried.
    }
    this.#progress.textContent = summary(rows);
    this.#result.replaceChildren(drawScore(rows));
  }

  /** The pairs of a group and their donors, which the model gets to know once. */
  async #meet(group) {
    if (!this.#unseen.has(group)) {
      const scenes = await (await fetched(new URL(`unseen/${group}.json`, this.#lab.url))).json();
      await this.#lab.client.meet(scenes);
      this.#unseen.set(group, scenes);
    }
    return this.#unseen.get(group);
  }

  /** What the cells move on one pair, from its own clean run and on average from its donors, in percent. */
  async #row(scene, sites) {
    const { client } = this.#lab;
    const unpatched = await client.read(scene.id);
    const share = (score) => moved(unpatched, "corrupt", score);
    const [own] = await client.patch(scene.id, "denoise", [sites]);
    const donors = [];
    for (const donor of scene.donors) donors.push((await client.patch(scene.id, "denoise", [sites], donor))[0]);
    return { scene, own: share(own), unrelated: mean(donors.map(share)), back: own.L > 0 };
  }
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function summary(rows) {
  const [own, unrelated] = [mean(rows.map((row) => row.own)), mean(rows.map((row) => row.unrelated))];
  const back = rows.filter((row) => row.back).length;
  return `Your score is ${percent(own - unrelated)}: on average your cells move the ${rows.length} pairs by ` +
    `${percent(own)} of ${GAP}, and by ${percent(unrelated)} with unrelated donors. The clean answer comes back on ` +
    `${back} of ${rows.length}.`;
}

function drawScore(rows) {
  const heading = ["Unseen pair", "Its own clean run", "Unrelated donors", "Beyond them", "Answer"];
  return table("The score", heading, rows.map(({ scene, own, unrelated, back }) => [
    scene.question,
    ...[own, unrelated, own - unrelated].map((value) => percent(value)),
    back ? `back: “${scene.options[0]}”` : `still “${scene.options[1]}”`,
  ]));
}
