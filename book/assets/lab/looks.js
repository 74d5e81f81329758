// Looks against matters: where heads look, what they move, and what is lost without them.

import { remember, remembered } from "./address.js";
import { lit, pictureAt, spotlight } from "./attention.js";
import { make, percent, signed } from "./dom.js";
import { fetched, fetchedBytes } from "./fetched.js";
import { Grid } from "./grid.js";
import { keyOf, short } from "./heads.js";
import { moved } from "./moved.js";
import { comparedOrder } from "./order.js";
import { ranks, scatter } from "./scatter.js";
import { NAMES, pairOptions, siteOf, tokenName } from "./state.js";
import { switchOff } from "./switch_off.js";
import { tried } from "./tried.js";

const PICKS = 3;
const LITTLE = 0.01; // of a head's attention
const NOTHING = { heads: null, reveal: null, off: null }; // What the address keeps of a guess that is not yet made.

/** Show the section in an emptied element, for a lab {client, manifest, url, switcher}. */
export async function open(lab, element) {
  const response = await fetched(new URL("looks.json", lab.url));
  await new Looks(lab, await response.json(), element).open();
}

class Looks {
  #lab;
  #index; // looks.json
  #root;
  #scene;
  #picked = new Map(); // key -> site, in the order of the picks: the reader's ranks
  #revealed;
  #shares = new Map(); // key -> percent
  #picture; // the clean one
  #maps; // attention, a byte for each layer, head and patch
  #grid;
  #parts;

  constructor(lab, index, root) {
    [this.#lab, this.#index, this.#root] = [lab, index, root];
    const state = remembered();
    const { scenes } = lab.manifest;
    this.#scene = scenes.find((one) => one.id === state.get("look")) ?? scenes[0];
    this.#revealed = state.get("reveal") === "1";
    for (const key of (state.get("heads") ?? "").split(" ")) {
      const site = this.#sites().find((one) => keyOf(one) === key);
      if (site && this.#picked.size < PICKS) this.#picked.set(site.key, site);
    }
    this.#build();
  }

  get #token() {
    return this.#scene.roles.indexOf(this.#index.role);
  }

  get #entry() {
    return this.#index.scenes[this.#scene.id];
  }

  /** Every head at the scene's token, by layer and head. */
  #sites() {
    const { layers, heads } = this.#lab.manifest.shape;
    return Array.from({ length: layers * heads }, (_, i) =>
      siteOf(this.#scene, this.#index.component, Math.floor(i / heads), this.#token, i % heads));
  }

  // ---- what is on the page

  #build() {
    const { manifest, switcher } = this.#lab;
    const attempt = (doing) => tried(this.#root, this.#parts.said, doing);
    this.#parts = {
      scene: make("select", { onchange: (event) => attempt(() => this.#choose(event.target.value)) },
        pairOptions(manifest)),
      task: make("p"),
      grid: make("div"),
      detail: make("div", { className: "lab-detail" }),
      reveal: make("button", { type: "button", onclick: () => attempt(() => this.#reveal()) }),
      again: make("button", {
        type: "button", className: "lab-again", onclick: () => attempt(() => this.#choose(this.#scene.id)),
      }, "Guess again"),
      said: make("p", { className: "lab-result", role: "status" }),
      after: make("div"),
    };
    const parts = this.#parts;
    // The other model's heads are to be guessed anew; it opens after this listener.
    switcher.addEventListener("change", () => remember(NOTHING), { capture: true });
    this.#root.replaceChildren(
      make("div", { className: "lab-controls" },
        switcher, make("label", { className: "lab-wide" }, "Pair ", parts.scene)),
      parts.task,
      make("div", { className: "lab-panels lab-looks" }, parts.grid, parts.detail),
      make("div", { className: "lab-controls" }, parts.reveal, parts.again), parts.said, parts.after);
  }

  async #choose(id) {
    this.#scene = this.#lab.manifest.scenes.find((one) => one.id === id);
    this.#picked.clear();
    this.#shares.clear();
    this.#revealed = false;
    remember(NOTHING);
    await this.open();
  }

  /** Show the scene anew. */
  async open() {
    const scene = this.#scene;
    const parts = this.#parts;
    this.#root.setAttribute("aria-busy", "true");
    const [picture, maps] = await Promise.all([
      pictureAt(new URL(scene.images.clean, this.#lab.url)),
      fetchedBytes(new URL(`looks/${scene.id}-maps.raw`, this.#lab.url)),
    ]);
    if (scene !== this.#scene) return;
    [this.#picture, this.#maps] = [picture, maps];
    parts.scene.value = scene.id;
    const where = `“${tokenName(scene, this.#token)}”${this.#index.role === "last" ? ", the last token," : ""}`;
    parts.task.textContent =
      `“${scene.question}” Each square shows where one head of ${NAMES[this.#index.component].toLowerCase()} looks ` +
      `from ${where} in the clean picture: the brighter, the more. All squares have one scale, up to ` +
      `${this.#index.most} times an even share. Which ${PICKS} heads move the answer most? Pick them by their ` +
      "looks, the strongest first: your order is compared, too.";
    this.#makeGrid();
    this.#show();
    if (this.#revealed) await this.#reveal();
    this.#root.setAttribute("aria-busy", "false");
  }

  #makeGrid() {
    const { layers, heads } = this.#lab.manifest.shape;
    const sites = this.#sites();
    this.#grid = new Grid({
      label: "Where each head looks: heads by layers",
      rows: Array.from({ length: heads }, (_, head) => ({ name: `H${head}` })),
      layers,
      cell: (head, layer) => sites[layer * heads + head],
      source: "clean",
      numbered: true,
      pick: ([site]) => this.#toggle(site),
      look: (site) => this.#describe(site),
      picture: (site) => lit(this.#picture, this.#map(site), this.#index.grid),
    });
    this.#parts.grid.replaceChildren(this.#grid.element);
    this.#describe(sites[0]);
  }

  #map({ layer, head }) {
    const patches = this.#index.grid ** 2;
    const at = (layer * this.#lab.manifest.shape.heads + head) * patches;
    return this.#maps.subarray(at, at + patches);
  }

  /** Show one head's map large, and how much of its attention lies where. */
  #describe(site) {
    const { picture, on_own: own, on_others: others, on, others: number, others_area: area } = this.#entry;
    const of = (table) => table[site.layer][site.head];
    const seen = `Layer ${site.layer}, head ${site.head} gives ${share(of(picture))} of its attention to the picture.`;
    const where =
      `Of that, ${share(of(own))} falls on what is asked about, inside the line, which is ` +
      `${share(on.length / this.#index.grid ** 2)} of the picture. Laid over this picture, the masks of ${number} ` +
      `other scenes would hold ${share(of(others))}, on ${share(area)} of the picture.`;
    const text = of(picture) < LITTLE ? seen : `${seen} ${where}`;
    const image = spotlight(this.#picture, this.#map(site), this.#index.grid, on);
    this.#parts.detail.replaceChildren(image, make("p", { role: "status" }, text));
  }

  // ---- what the reader does

  #toggle(site) {
    if (this.#revealed) return;
    if (!this.#picked.delete(site.key)) {
      if (this.#picked.size === PICKS) {
        this.#parts.said.textContent = `You have picked ${PICKS}. Take one back before you pick another.`;
        return;
      }
      this.#picked.set(site.key, site);
    }
    this.#show();
  }

  #show() {
    const left = PICKS - this.#picked.size;
    const { reveal, again, said, after } = this.#parts;
    this.#grid.show(this.#picked, this.#shares);
    reveal.textContent = "Reveal what each head moves";
    reveal.disabled = left > 0 || this.#revealed;
    again.hidden = !this.#revealed;
    said.textContent = [this.#order(), left && `${left} more to pick.`].filter(Boolean).join(" ");
    after.replaceChildren();
    remember({
      look: this.#scene.id,
      heads: [...this.#picked.values()].map(keyOf).join(" ") || null,
      reveal: this.#revealed ? "1" : null,
    });
  }

  /** The picks by their numbers; "" before the first. */
  #order() {
    const picks = [...this.#picked.values()].map((site, i) => `${i + 1}. ${short(site)}`);
    return picks.length ? `Your order, the strongest first: ${picks.join(", ")}.` : "";
  }

  /** Patch every head by itself from the clean into the corrupt run, and compare with the looks. */
  async #reveal() {
    const scene = this.#scene;
    const sites = this.#sites();
    this.#root.setAttribute("aria-busy", "true");
    this.#parts.said.textContent = `Measuring ${sites.length} patched runs ...`;
    const unpatched = await this.#lab.client.read(scene.id);
    const scores = await this.#lab.client.patch(scene.id, "denoise", sites.map((site) => [site]));
    if (scene !== this.#scene) return;
    const effects = scores.map((score) => moved(unpatched, "corrupt", score));
    sites.forEach((site, i) => this.#shares.set(site.key, effects[i]));
    this.#revealed = true;
    this.#show();
    const { picture, on_own: own } = this.#entry;
    const looks = sites.map(({ layer, head }) => picture[layer][head] * own[layer][head]);
    this.#compare(sites, effects, looks);
    const strongest = top(sites, effects, 2);
    const off = make("div", { className: "lab-off" });
    this.#parts.after.append(off);
    const given = { lab: this.#lab, index: this.#index, scene, sites, strongest, unpatched };
    await switchOff(given, off);
    this.#root.setAttribute("aria-busy", "false");
    this.#parts.again.focus({ preventScroll: true });
  }

  #compare(sites, effects, looks) {
    const place = ranks(effects.map((effect) => -effect));
    const told = (site) => `${short(site)} (${percent(effects[sites.indexOf(site)])})`;
    const picked = [...this.#picked.values()].map((site) => sites.find((one) => one.key === site.key));
    const order = comparedOrder(picked.map((site) => effects[sites.indexOf(site)]));
    const picks = picked.map((site) => `${told(site)}, rank ${place[sites.indexOf(site)]} of ${sites.length}`);
    const plot = scatter(sites.map((site, i) => ({
      x: 100 * looks[i], y: effects[i], name: short(site), marked: this.#picked.has(site.key),
    })));
    this.#parts.said.textContent =
      (picks.length ? `You picked ${picks.join("; ")}. ` : "") + (order && `${order} `) +
      `Most is moved by ${top(sites, effects, PICKS).map(told).join(", ")}. The heads that look most at what is ` +
      `asked about are ${top(sites, looks, PICKS).map(told).join(", ")}. Over all heads, the rank correlation of ` +
      `looks and effect is ${signed(plot.correlation, 2)}.`;
    this.#parts.after.append(plot.element);
  }
}

/** A part of 1 in percent. */
function share(part) {
  return part > 0 && part < LITTLE ? "under 1\u00a0%" : `${(100 * part).toFixed(0)}\u00a0%`;
}

/** The sites with the largest values. */
function top(sites, values, n) {
  const order = sites.map((_, i) => i).sort((a, b) => values[b] - values[a]);
  return order.slice(0, n).map((i) => sites[i]);
}
