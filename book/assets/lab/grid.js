// A grid of cells that can be picked by click, tap or key. One cell at a time takes the focus; arrows move it.

import { make, signed } from "./dom.js";
import { onDrag } from "./drag.js";

const MOVES = {
  ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
  Home: [0, -Infinity], End: [0, Infinity], PageUp: [-Infinity, 0], PageDown: [Infinity, 0],
};

/**
 * rows: [{name, mark}], each with its class; layers: the number of columns; cell(row, layer): the cell's site
 * {key, title, ...}. `pick` gets a list of sites: one, or `several`, if those of a row, of a layer or of a press that
 * moves over cells may be picked together. `look` gets the site of a cell that takes the focus or is pointed at.
 * `source` is the run whose activations a picked cell holds, and gives it its colour. `picture(site)` is a cell's CSS
 * background, if it has one. Where they are `numbered`, picked cells show their place among the picks.
 */
export class Grid {
  #cells;
  #rows = []; // the buttons of all cells of a row
  #layers = []; // and of a layer
  #at = [0, 0]; // row and layer; -1 is the headers'
  #numbered;

  constructor({
    label, rows, layers, cell, pick, source, several = false, numbered = false, look = () => {}, picture = () => "",
  }) {
    this.#numbered = numbered;
    const columns = [...Array(layers).keys()];
    this.sites = rows.map((_, i) => columns.map((j) => cell(i, j)));
    const button = (at, sites, title, text = "") => make("button", {
      type: "button", tabIndex: -1, title, "aria-label": title, "aria-pressed": "false",
      onclick: () => (this.#focus(...at), pick(sites)),
    }, text);
    this.#cells = this.sites.map((row, i) => row.map((site, j) => {
      const one = button([i, j], [site], site.title);
      one.style.backgroundImage = picture(site);
      for (const name of ["focus", "pointerenter"]) one.addEventListener(name, () => look(site));
      return one;
    }));
    this.#cells[0][0].tabIndex = 0;
    const table = { role: "grid", "aria-label": label, className: `lab-grid lab-from-${source}` };
    this.element = make("table", { ...table, onkeydown: (event) => this.#key(event) });
    if (several) {
      const all = (at, sites, name, text) => button(at, sites, `${name}, all ${sites.length} cells`, text);
      this.#rows = rows.map(({ name }, i) => all([i, -1], this.sites[i], name, name));
      this.#layers = columns.map((j) => all([-1, j], this.#column(j), `layer ${j}`, j));
      onDrag(this.element, (buttons) => {
        const places = buttons.map((one) => this.#placeOf(one));
        this.#focus(...places[0]);
        pick(places.map(([i, j]) => this.sites[i][j]));
      });
    }
    this.#fill(rows);
  }

  /** Put all buttons into the table, and bare names where its headers have none. */
  #fill(rows) {
    const header = ["layer", ...this.#cells[0].map((_, j) => this.#layers[j] ?? j)];
    const body = rows.map(({ name, mark }, i) => {
      const cells = this.#cells[i].map((one) => make("td", { role: "gridcell" }, one));
      return make("tr", {}, make("th", { scope: "row", className: mark ?? "" }, this.#rows[i] ?? name), cells);
    });
    this.element.append(
      make("thead", {}, make("tr", {}, header.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, body));
  }

  #column(layer) {
    return this.sites.map((row) => row[layer]);
  }

  #placeOf(button) {
    const row = this.#cells.findIndex((cells) => cells.includes(button));
    return [row, this.#cells[row].indexOf(button)];
  }

  get at() {
    return this.#at;
  }

  /** Make a cell or a header the one that takes the focus, without giving it. */
  set at([row, layer]) {
    this.#button(...this.#at).tabIndex = -1;
    this.#at = [Math.min(row, this.#cells.length - 1), Math.min(layer, this.#cells[0].length - 1)];
    this.#button(...this.#at).tabIndex = 0;
  }

  #button(row, layer) {
    if (row < 0) return this.#layers[layer];
    return layer < 0 ? this.#rows[row] : this.#cells[row][layer];
  }

  /** Show which cells are picked, and what each does by itself in percent (a map of keys; absent: not measured). */
  show(picked, shares) {
    const order = this.#numbered ? [...picked.keys()] : [];
    this.sites.flat().forEach((site, number) => {
      const button = this.#cells.flat()[number];
      const share = shares.get(site.key);
      const text = share === undefined ? "" : signed(share, 0);
      button.setAttribute("aria-pressed", picked.has(site.key));
      const place = order.indexOf(site.key) + 1;
      const pick = place ? `, pick ${place}` : "";
      button.setAttribute("aria-label", site.title + pick + (text && `, by itself ${text} percent`));
      if (place) button.dataset.pick = place;
      else delete button.dataset.pick;
      button.textContent = text;
      button.style.setProperty("--share", Math.min(85, Math.abs(share ?? 0)) + "%");
      button.classList.toggle("lab-away", share < 0);
      button.classList.toggle("lab-silent", Math.abs(share) < 0.5);
    });
    this.#rows.forEach((button, i) => showAll(button, this.sites[i], picked));
    this.#layers.forEach((button, j) => showAll(button, this.#column(j), picked));
  }

  #focus(row, layer) {
    this.at = [row, layer];
    this.#button(...this.#at).focus();
  }

  #key(event) {
    const move = MOVES[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    // Only arrows lead to the headers, and between theirs there is no corner.
    const first = this.#rows.length ? -1 : 0;
    const [row, layer] = move.map((step, i) => (step === -Infinity ? 0 : Math.max(first, this.#at[i] + step)));
    if (row >= 0 || layer >= 0) this.#focus(row, layer);
  }
}

/** Show whether all, some or none of a header's cells are picked. */
function showAll(button, sites, picked) {
  const number = sites.filter((site) => picked.has(site.key)).length;
  button.setAttribute("aria-pressed", number === sites.length || (number > 0 && "mixed"));
}
