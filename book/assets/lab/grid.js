// A grid of cells that can be picked by click, tap or key. One cell at a time takes the focus; arrows move it.

import { make, signed } from "./dom.js";

const MOVES = {
  ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
  Home: [0, -Infinity], End: [0, Infinity], PageUp: [-Infinity, 0], PageDown: [Infinity, 0],
};

/**
 * rows: [{name, mark}], each with its class; layers: the number of columns; cell(row, layer): the cell's site
 * {key, title, ...}, which `pick` gets. `source` is the run whose activations a picked cell holds, and gives it its colour.
 * `picture(site)` is a cell's CSS background, if it has one.
 */
export class Grid {
  #cells;
  #at = [0, 0];

  constructor({ label, rows, layers, cell, pick, source, picture = () => "" }) {
    this.sites = rows.map((_, i) => Array.from({ length: layers }, (_, j) => cell(i, j)));
    this.#cells = this.sites.map((row, i) =>
      row.map((site, j) => {
        const button = make("button", {
          type: "button", tabIndex: -1, title: site.title, "aria-pressed": "false",
          onclick: () => (this.#focus(i, j), pick(site)),
        });
        button.style.backgroundImage = picture(site);
        return button;
      }),
    );
    this.#cells[0][0].tabIndex = 0;
    const header = ["layer", ...Array(layers).keys()].map((name) => make("th", { scope: "col" }, name));
    const body = rows.map(({ name, mark }, i) => {
      const cells = this.#cells[i].map((button) => make("td", { role: "gridcell" }, button));
      return make("tr", {}, make("th", { scope: "row", className: mark ?? "" }, name), cells);
    });
    const table = { role: "grid", "aria-label": label, className: `lab-grid lab-from-${source}` };
    this.element = make("table", { ...table, onkeydown: (event) => this.#key(event) },
      make("thead", {}, make("tr", {}, header)), make("tbody", {}, body));
  }

  get at() {
    return this.#at;
  }

  /** Make a cell the one that takes the focus, without giving it. */
  set at([row, column]) {
    const [i, j] = this.#at;
    this.#cells[i][j].tabIndex = -1;
    this.#at = [Math.min(row, this.#cells.length - 1), Math.min(column, this.#cells[0].length - 1)];
    this.#cells[this.#at[0]][this.#at[1]].tabIndex = 0;
  }

  /** Show which cells are picked, and what each does by itself in percent (a map of keys; absent: not measured). */
  show(picked, shares) {
    this.sites.flat().forEach((site, number) => {
      const button = this.#cells.flat()[number];
      const share = shares.get(site.key);
      const text = share === undefined ? "" : signed(share, 0);
      button.setAttribute("aria-pressed", picked.has(site.key));
      button.setAttribute("aria-label", site.title + (text && `, by itself ${text} percent`));
      button.textContent = text;
      button.style.setProperty("--share", Math.min(85, Math.abs(share ?? 0)) + "%");
      button.classList.toggle("lab-away", share < 0);
      button.classList.toggle("lab-silent", Math.abs(share) < 0.5);
    });
  }

  #focus(row, column) {
    this.at = [row, column];
    this.#cells[this.#at[0]][this.#at[1]].focus();
  }

  #key(event) {
    const move = MOVES[event.key];
    if (!move || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    const [i, j] = this.#at;
    this.#focus(Math.max(0, i + move[0]), Math.max(0, j + move[1]));
  }
}
