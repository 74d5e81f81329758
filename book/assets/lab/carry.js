// Carry a patch: a pair, what is carried, and both directions side by side.

import { remember, remembered } from "./address.js";
import { Challenge } from "./challenge.js";
import { GAP, make } from "./dom.js";
import { Grid } from "./grid.js";
import { askGuess, judge } from "./guess.js";
import { drawLine, sentence } from "./line.js";
import { moved } from "./moved.js";
import { construction } from "./rules.js";
import {
  NAMES, componentOf, fromAddress, pairOptions, siteOf, toAddress, tokenName, tokenRows, usualToken,
} from "./state.js";
import { drawTally } from "./tally.js";
import { tried } from "./tried.js";
import { drawTwins } from "./twins.js";

const LEGEND =
  `A number is what the cell moves by itself, in percent of ${GAP}: blue and + towards the clean answer, orange ` +
  "and − away from it. A frame marks what you carry.";
const DIRECTIONS = {
  denoise: { title: "Enough here?", name: "Denoising", base: "corrupt", source: "clean" },
  noise: { title: "Needed here?", name: "Noising", base: "clean", source: "corrupt" },
};

/** Show the section in an emptied element, for a lab {client, manifest, url, switcher}. */
export async function open(lab, element) {
  const carry = new Carry(lab, element);
  await carry.open();
}

class Carry {
  #client;
  #manifest;
  #url;
  #root;
  #scene;
  #view; // of state.js
  #token; // of views of heads
  #picked = new Map(); // key -> site
  #shares = { denoise: new Map(), noise: new Map() }; // key -> percent
  #judged = new Map(); // view and token -> what the map said of the guess
  #challenge;
  #unpatched;
  #grids;
  #parts; // the elements that change
  #turn = 0; // counts changes, so that a late result of an earlier one is dropped

  constructor(lab, root) {
    const { client, manifest, url, switcher } = lab;
    [this.#client, this.#manifest, this.#url, this.#root] = [client, manifest, url, root];
    this.#challenge = new Challenge(lab);
    const state = fromAddress(manifest, remembered());
    [this.#scene, this.#view, this.#token] = [state.scene, state.view, state.token];
    for (const site of state.sites) this.#picked.set(site.key, site);
    this.#build(switcher);
  }

  // ---- what is on the page

  #build(switcher) {
    const { components, per_head: perHead } = this.#manifest;
    const views = [
      ...components.map((name) => [name, NAMES[name]]).reverse(),
      ...perHead.map((name) => [`heads:${name}`, `Single heads of ${NAMES[name].toLowerCase()}`]),
    ];
    const choosing = (choice) => ({
      onchange: ({ target }) => this.#tried(() => this.#choose(choice(target.value))),
    });
    this.#parts = {
      scene: make("select", choosing((scene) => ({ scene })), pairOptions(this.#manifest)),
      view: make("select", choosing((view) => ({ view })),
        views.map(([value, name]) => make("option", { value }, name))),
      token: make("select", choosing((token) => ({ token: Number(token) }))),
      clear: make("button", { type: "button", onclick: () => this.#tried(() => this.#clear()) }, "Carry nothing"),
      guess: make("div"),
      carried: make("div", { className: "lab-carried" }),
      status: make("p", { className: "lab-status", role: "status" }),
      panels: Object.fromEntries(Object.keys(DIRECTIONS).map((name) => [name, this.#panel(name)])),
    };
    const parts = this.#parts;
    parts.tokenLabel = make("label", {}, "at the token ", parts.token);
    this.#root.replaceChildren(
      make("div", { className: "lab-controls" },
        switcher, make("label", { className: "lab-wide" }, "Pair ", parts.scene),
        make("label", {}, "Carry ", parts.view), parts.tokenLabel, parts.clear),
      parts.guess,
      make("div", { className: "lab-panels" }, Object.values(parts.panels).map((panel) => panel.element)),
      make("p", { className: "lab-legend" }, LEGEND), parts.status, parts.carried, this.#challenge.element,
      drawTwins(this.#manifest, (scene, sites) => this.#tried(() => this.#carry(scene, sites))),
    );
  }

  #panel(name) {
    const { title, name: technical, base, source } = DIRECTIONS[name];
    const panel = {
      image: make("img", { className: "lab-picture" }),
      said: make("p"),
      grid: make("div"),
      line: make("div"),
      result: make("p", { className: "lab-result", role: "status" }),
    };
    panel.element = make("section", { className: "lab-panel", "aria-label": `${title} ${technical}` },
      make("p", { className: "lab-title" },
        make("strong", {}, title), `${technical}: ${source} cells into the ${base} run`),
      make("div", { className: "lab-run" }, panel.image, panel.said), panel.grid, panel.line, panel.result);
    return panel;
  }

  // ---- what the reader chooses

  #tried(doing) {
    return tried(this.#root, this.#parts.status, doing);
  }

  async #choose({ scene, view, token }) {
    this.#turn++;
    if (scene) {
      this.#scene = this.#manifest.scenes.find((one) => one.id === scene);
      this.#token = usualToken(this.#manifest, this.#scene);
      this.#picked.clear();
      this.#judged.clear();
      for (const shares of Object.values(this.#shares)) shares.clear();
    }
    this.#view = view ?? this.#view;
    this.#token = token ?? this.#token;
    this.#root.setAttribute("aria-busy", "true");
    await this.open();
  }

  /** Show the scene and the view anew. */
  async open() {
    const parts = this.#parts;
    const scene = this.#scene;
    const unpatched = await this.#client.read(scene.id);
    if (scene !== this.#scene) return;
    this.#unpatched = unpatched;
    [parts.scene.value, parts.view.value] = [this.#scene.id, this.#view];
    parts.token.replaceChildren(...this.#scene.tokens.map((_, i) =>
      make("option", { value: i, selected: i === this.#token }, tokenName(this.#scene, i))));
    parts.tokenLabel.hidden = !this.#ofHeads;
    this.#grids = Object.fromEntries(Object.keys(DIRECTIONS).map((name) => [name, this.#grid(name)]));
    for (const [name, { base }] of Object.entries(DIRECTIONS)) {
      const panel = parts.panels[name];
      panel.image.src = new URL(this.#scene.images[base], this.#url);
      panel.image.alt = `The ${base} picture`;
      const word = this.#scene.options[base === "clean" ? 0 : 1];
      panel.said.replaceChildren(`The ${base} run sees this picture and says `, make("strong", {}, word), ".");
      panel.grid.replaceChildren(this.#grids[name].element);
    }
    this.#ask();
    await this.#show();
  }

  get #ofHeads() {
    return componentOf(this.#view) !== this.#view;
  }

  /** The rows of the view's grids: [{name, mark}], with a class. */
  #rows() {
    if (this.#ofHeads) {
      return Array.from({ length: this.#manifest.shape.heads }, (_, head) => ({ name: `H${head}` }));
    }
    return tokenRows(this.#scene);
  }

  get #place() {
    return `${this.#view} ${this.#ofHeads ? this.#token : ""}`;
  }

  /** Ask for a guess before the view's map is shown, or show what became of it. */
  #ask() {
    const judged = this.#judged.get(this.#place);
    this.#parts.guess.replaceChildren(judged ? make("p", { role: "status" }, judged) : askGuess({
      rows: this.#rows().map((row) => row.name),
      layers: this.#manifest.shape.layers,
      kind: this.#ofHeads ? "heads" : "cells",
      commit: (guess) => this.#tried(() => this.#measure(guess)),
    }));
  }

  /** Show a pair, and carry single heads or cells in it. */
  async #carry(scene, sites) {
    const [{ component, head }] = sites;
    await this.#choose({ scene: scene.id, view: head === null ? component : `heads:${component}` });
    for (const site of sites) this.#picked.set(site.key, site);
    await this.#show();
    this.#root.scrollIntoView({ block: "start" });
  }

  #grid(name) {
    const [component, ofHeads, token] = [componentOf(this.#view), this.#ofHeads, this.#token];
    const { title, source } = DIRECTIONS[name];
    return new Grid({
      label: `${title} ${NAMES[component]}: ${ofHeads ? "heads" : "tokens"} by layers`,
      rows: this.#rows(),
      layers: this.#manifest.shape.layers,
      cell: (row, layer) => siteOf(this.#scene, component, layer, ...(ofHeads ? [token, row] : [row, null])),
      source,
      several: true,
      pick: (sites) => this.#tried(() => this.#toggle(sites, name)),
    });
  }

  /** Carry cells of a direction's grid; if all of them are carried, carry them no more. */
  async #toggle(sites, name) {
    if (sites.every((site) => this.#picked.has(site.key))) for (const site of sites) this.#picked.delete(site.key);
    else for (const site of sites) this.#picked.set(site.key, site);
    for (const other of Object.keys(this.#grids)) if (other !== name) this.#grids[other].at = this.#grids[name].at;
    await this.#show();
  }

  async #clear() {
    this.#picked.clear();
    await this.#show();
  }

  // ---- what the model says

  async #show() {
    const turn = ++this.#turn;
    const scene = this.#scene;
    this.#root.setAttribute("aria-busy", "true");
    const sites = [...this.#picked.values()];
    for (const [name, grid] of Object.entries(this.#grids)) grid.show(this.#picked, this.#shares[name]);
    this.#parts.clear.disabled = !sites.length;
    remember(toAddress(scene, this.#view, this.#token, sites));
    const results = {};
    for (const name of Object.keys(DIRECTIONS)) {
      results[name] = await this.#client.patch(scene.id, name, [sites, ...sites.map((site) => [site])]);
    }
    if (turn !== this.#turn) return;
    for (const [name, scores] of Object.entries(results)) this.#result(name, scores[0], sites.length);
    const tally = await this.#tally(sites, results);
    if (turn !== this.#turn) return;
    this.#parts.carried.replaceChildren(...tally);
    this.#parts.status.textContent = construction(this.#manifest, scene, sites);
    this.#challenge.show(scene, sites, results.denoise[0].L > 0);
    this.#root.setAttribute("aria-busy", "false");
  }

  #result(name, joint, number) {
    const { clean, corrupt } = this.#unpatched;
    const panel = this.#parts.panels[name];
    panel.line.replaceChildren(drawLine(corrupt.L, clean.L, joint.L));
    panel.result.textContent = sentence(this.#scene, this.#unpatched, DIRECTIONS[name].base, joint, number);
  }

  /** What a score moved, in percent of L - L*. */
  #share(name, score) {
    return moved(this.#unpatched, DIRECTIONS[name].base, score);
  }

  async #tally(sites, results) {
    if (!sites.length) return [];
    const shares = (i) => Object.fromEntries(
      Object.entries(results).map(([name, scores]) => [name, this.#share(name, scores[i])]));
    const rows = sites.map((site, i) => ({ site, shares: shares(i + 1) }));
    const remove = (site) => this.#tried(() => this.#remove(site));
    return drawTally(this.#url, this.#scene, rows, shares(0), remove);
  }

  /** Patch each cell of the view by itself, in both directions, and judge a guess by it. */
  async #measure(guess) {
    const [scene, place, rows] = [this.#scene, this.#place, this.#rows().map((row) => row.name)];
    const grids = this.#grids;
    const cells = grids.denoise.sites;
    const sites = cells.flat();
    const started = performance.now();
    this.#parts.guess.replaceChildren(
      make("p", { role: "status" }, `Measuring ${2 * sites.length} patched runs ...`));
    const flips = new Set();
    for (const name of Object.keys(DIRECTIONS)) {
      const scores = await this.#client.patch(scene.id, name, sites.map((site) => [site]));
      if (scene !== this.#scene) return;
      sites.forEach((site, i) => {
        this.#shares[name].set(site.key, this.#share(name, scores[i]));
        if (name === "denoise" && scores[i].L > 0) flips.add(site.key);
      });
      grids[name].show(this.#picked, this.#shares[name]);
    }
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    const measured = cells.map((row) => row.map(({ key }) =>
      ({ share: this.#shares.denoise.get(key), flips: flips.has(key) })));
    this.#judged.set(place, `${judge(guess, rows, measured)} (${2 * sites.length} patched runs in ${seconds} s.)`);
    if (place === this.#place) this.#ask();
  }

  async #remove(site) {
    this.#picked.delete(site.key);
    await this.#show();
    (this.#parts.carried.querySelector("button") ?? this.#parts.scene).focus();
  }
}
