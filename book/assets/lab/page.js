// The patch lab's page: Start, a pair, what is carried, and both directions side by side.

import { Client } from "./client.js";
import { make, signed } from "./dom.js";
import { Grid } from "./grid.js";
import { drawLine, sentence } from "./line.js";
import { NAMES, componentOf, correctToken, fromAddress, siteOf, toAddress } from "./state.js";

const LEGEND =
  "A number is what the cell moves by itself, in percent of L − L*: blue and + towards the clean answer, orange " +
  "and − away from it. A frame marks what you carry.";
const DIRECTIONS = {
  denoise: { title: "Enough here?", name: "Denoising", base: "corrupt", source: "clean" },
  noise: { title: "Needed here?", name: "Noising", base: "clean", source: "corrupt" },
};

class Lab {
  #client;
  #manifest;
  #url;
  #root;
  #scene;
  #view; // of state.js
  #token; // of views of heads
  #picked = new Map(); // key -> site
  #shares = { denoise: new Map(), noise: new Map() }; // key -> percent
  #unpatched;
  #grids;
  #parts; // the elements that change
  #turn = 0; // counts changes, so that a late result of an earlier one is dropped

  constructor(root, manifest, url) {
    [this.#root, this.#manifest, this.#url] = [root, manifest, url];
    const state = fromAddress(manifest, location.hash);
    [this.#scene, this.#view, this.#token] = [state.scene, state.view, state.token];
    for (const site of state.sites) this.#picked.set(site.key, site);
  }

  /** Show the Start button, which says how much is loaded. */
  offer() {
    const bytes = Object.values(this.#manifest.files).reduce((sum, file) => sum + file.bytes, 0);
    const button = make("button", { type: "button", className: "lab-start", onclick: () => this.#start() },
      `Start the lab (loads ${megabytes(bytes)})`);
    this.#root.replaceChildren(button);
  }

  async #start() {
    const bar = make("progress", { max: 1, value: 0, "aria-label": "Loading the model" });
    const amount = make("span", { "aria-hidden": "true" });
    const said = make("span", { role: "status" }, "Loading the model ...");
    this.#root.replaceChildren(make("div", { className: "lab-loading" }, bar, said, amount));
    this.#client = new Client();
    try {
      await this.#client.load(this.#url, (bytes, of) => {
        bar.value = bytes / of;
        amount.textContent = `${megabytes(bytes)} of ${megabytes(of)}`;
      });
      this.#build();
      await this.#open();
      this.#root.querySelector("select").focus();
    } catch (error) {
      const again = make("button", { type: "button", onclick: () => location.reload() }, "Try again");
      this.#root.replaceChildren(make("p", { role: "alert" }, `The lab cannot start: ${error.message}`), again);
    }
  }

  // ---- what is on the page

  #build() {
    const scenes = this.#manifest.scenes.map((scene) =>
      make("option", { value: scene.id }, `${scene.question} (${scene.slot})`));
    const { components, per_head: perHead } = this.#manifest;
    const views = [
      ...components.map((name) => [name, NAMES[name]]).reverse(),
      ...perHead.map((name) => [`heads:${name}`, `Single heads of ${NAMES[name].toLowerCase()}`]),
    ];
    this.#parts = {
      scene: make("select", { onchange: (event) => this.#choose({ scene: event.target.value }) }, scenes),
      view: make("select", { onchange: (event) => this.#choose({ view: event.target.value }) },
        views.map(([value, name]) => make("option", { value }, name))),
      token: make("select", { onchange: (event) => this.#choose({ token: Number(event.target.value) }) }),
      measure: make("button", { type: "button", onclick: () => this.#measure() }),
      clear: make("button", { type: "button", onclick: () => this.#clear() }, "Carry nothing"),
      carried: make("ul", { className: "lab-carried", "aria-label": "Carried activations" }),
      status: make("p", { className: "lab-status", role: "status" }),
      panels: Object.fromEntries(Object.keys(DIRECTIONS).map((name) => [name, this.#panel(name)])),
    };
    const parts = this.#parts;
    parts.tokenLabel = make("label", {}, "at the token ", parts.token);
    this.#root.replaceChildren(
      make("div", { className: "lab-controls" },
        make("label", { className: "lab-wide" }, "Pair ", parts.scene),
        make("label", {}, "Carry ", parts.view), parts.tokenLabel, parts.measure, parts.clear),
      make("div", { className: "lab-panels" }, Object.values(parts.panels).map((panel) => panel.element)),
      make("p", { className: "lab-legend" }, LEGEND), parts.status, parts.carried,
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

  async #choose({ scene, view, token }) {
    if (scene) {
      this.#scene = this.#manifest.scenes.find((one) => one.id === scene);
      this.#token = correctToken(this.#scene);
      this.#picked.clear();
      for (const shares of Object.values(this.#shares)) shares.clear();
    }
    this.#view = view ?? this.#view;
    this.#token = token ?? this.#token;
    this.#root.setAttribute("aria-busy", "true");
    try {
      await this.#open();
    } catch (error) {
      this.#parts.status.textContent = error.message;
      this.#root.setAttribute("aria-busy", "false");
    }
  }

  /** Show the scene and the view anew. */
  async #open() {
    const parts = this.#parts;
    const scene = this.#scene;
    const unpatched = await this.#client.read(scene.id);
    if (scene !== this.#scene) return;
    this.#unpatched = unpatched;
    [parts.scene.value, parts.view.value] = [this.#scene.id, this.#view];
    parts.token.replaceChildren(...this.#scene.tokens.map((token, i) =>
      make("option", { value: i, selected: i === this.#token }, token)));
    const ofHeads = componentOf(this.#view) !== this.#view;
    parts.tokenLabel.hidden = !ofHeads;
    this.#grids = Object.fromEntries(Object.keys(DIRECTIONS).map((name) => [name, this.#grid(name)]));
    for (const [name, { base }] of Object.entries(DIRECTIONS)) {
      const panel = parts.panels[name];
      panel.image.src = new URL(this.#scene.images[base], this.#url);
      panel.image.alt = `The ${base} picture`;
      const word = this.#scene.options[base === "clean" ? 0 : 1];
      panel.said.replaceChildren(`The ${base} run sees this picture and says `, make("strong", {}, word), ".");
      panel.grid.replaceChildren(this.#grids[name].element);
    }
    const count = this.#grids.denoise.sites.flat().length;
    parts.measure.textContent = `Measure all ${count} ${ofHeads ? "heads" : "cells"}, one at a time`;
    await this.#show();
  }

  #grid(name) {
    const { layers, heads } = this.#manifest.shape;
    const component = componentOf(this.#view);
    const ofHeads = component !== this.#view;
    const rows = ofHeads
      ? Array.from({ length: heads }, (_, head) => ({ name: `H${head}` }))
      : this.#scene.tokens.map((token, i) => ({ name: token, mark: `lab-is-${this.#scene.roles[i]}` }));
    const { title, source } = DIRECTIONS[name];
    return new Grid({
      label: `${title} ${NAMES[component]}: ${ofHeads ? "heads" : "tokens"} by layers`,
      corner: "layer",
      rows,
      columns: Array.from({ length: layers }, (_, layer) => String(layer)),
      cell: (row, layer) => siteOf(this.#scene, component, layer, ...(ofHeads ? [this.#token, row] : [row, null])),
      source,
      pick: (site) => this.#toggle(site, name),
    });
  }

  async #toggle(site, name) {
    if (!this.#picked.delete(site.key)) this.#picked.set(site.key, site);
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
    this.#root.setAttribute("aria-busy", "true");
    const sites = [...this.#picked.values()];
    for (const [name, grid] of Object.entries(this.#grids)) grid.show(this.#picked, this.#shares[name]);
    this.#list(sites);
    history.replaceState(null, "", toAddress(this.#scene, this.#view, this.#token, sites));
    const results = {};
    for (const name of Object.keys(DIRECTIONS)) {
      results[name] = await this.#client.patch(this.#scene.id, name, [sites, ...sites.map((site) => [site])]);
    }
    if (turn !== this.#turn) return;
    for (const [name, scores] of Object.entries(results)) this.#result(name, scores);
    this.#parts.status.textContent = this.#construction(sites);
    this.#root.setAttribute("aria-busy", "false");
  }

  #result(name, [joint, ...singles]) {
    const { clean, corrupt } = this.#unpatched;
    const base = this.#unpatched[DIRECTIONS[name].base];
    const panel = this.#parts.panels[name];
    const total = clean.L - corrupt.L;
    const percent = (score) => (100 * (score.L - base.L)) / total;
    const sum = singles.reduce((all, score) => all + percent(score), 0);
    panel.line.replaceChildren(drawLine(corrupt.L, clean.L, joint.L));
    panel.result.textContent = sentence(this.#scene, base, joint, total, singles.length) +
      (singles.length > 1 ? ` Carried one at a time, they add up to ${signed(sum, 0)} %.` : "");
  }

  /** What the graph's shape alone makes true, and is therefore no finding. */
  #construction(sites) {
    const last = this.#manifest.shape.layers - 1;
    const direct = sites.filter((site) => site.component === "layer_output" && site.layer === last);
    const read = new Set(direct.map((site) => site.token));
    if (read.size === this.#scene.ids.length) {
      return "You carry all outputs of the last layer. The decoder reads nothing else, so this gives the other " +
        "answer by construction: it is no finding.";
    }
    if (!read.size) return "";
    return "You carry outputs of the last layer, which the decoder reads directly.";
  }

  /** Patch each cell of the view by itself, in both directions. */
  async #measure() {
    const sites = this.#grids.denoise.sites.flat();
    const scene = this.#scene;
    const total = this.#unpatched.clean.L - this.#unpatched.corrupt.L;
    const started = performance.now();
    this.#parts.status.textContent = `Measuring ${2 * sites.length} patched runs ...`;
    for (const [name, { base }] of Object.entries(DIRECTIONS)) {
      const scores = await this.#client.patch(scene.id, name, sites.map((site) => [site]));
      if (scene !== this.#scene) return;
      const from = this.#unpatched[base].L;
      sites.forEach((site, i) => this.#shares[name].set(site.key, (100 * (scores[i].L - from)) / total));
      this.#grids[name].show(this.#picked, this.#shares[name]);
    }
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    this.#parts.status.textContent = `${2 * sites.length} patched runs in ${seconds} s.`;
  }

  #list(sites) {
    this.#parts.clear.disabled = !sites.length;
    this.#parts.carried.replaceChildren(...sites.map((site) =>
      make("li", {},
        make("button", { type: "button", title: "Carry this no more", onclick: () => this.#remove(site) },
          site.title, make("span", { "aria-hidden": "true" }, " ×")))));
  }

  async #remove(site) {
    this.#picked.delete(site.key);
    await this.#show();
    (this.#parts.carried.querySelector("button") ?? this.#parts.scene).focus();
  }
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

async function begin(root) {
  if (!("WebAssembly" in window && "DecompressionStream" in window && "Worker" in window)) return;
  const url = new URL(root.dataset.lab, document.baseURI).href;
  const response = await fetch(url);
  if (response.ok) new Lab(root, await response.json(), url).offer();
}

document.querySelectorAll(".lab").forEach(begin);
