// Compose a pair: two pictures of one board, a question that the model answers otherwise for each, and the map.

import { remember, remembered } from "./address.js";
import { GAP, make, percent } from "./dom.js";
import { fetched } from "./fetched.js";
import { Grid } from "./grid.js";
import { moved } from "./moved.js";
import { openOwn } from "./own.js";
import { blank, canvasOf, changes } from "./picture.js";
import { fetchPng } from "./png.js";
import { asked, idOf } from "./question.js";
import { siteOf, tokenRows } from "./state.js";
import { tried } from "./tried.js";
import { described } from "./words.js";

const RUNS = { clean: "Clean picture", corrupt: "Corrupt picture", blank: "Blank picture" };
const SCENE = "composed";

/** Show the section in an emptied element, for a lab {client, manifest, url, switcher}. */
export async function open(lab, element) {
  const given = await (await fetched(new URL("compose.json", lab.url))).json();
  await new Compose(lab, given, element).show();
  openOwn(lab, given, element.appendChild(make("div")));
}

class Compose {
  #lab;
  #given; // compose.json
  #root;
  #board; // number of the board
  #chosen; // run -> the number of each field's value
  #cleanFirst; // whether the question names the clean picture's word first
  #scene; // what the model is asked, or null
  #parts;
  #turn = 0; // counts changes, so that a late result of an earlier one is dropped

  constructor(lab, given, root) {
    [this.#lab, this.#given, this.#root] = [lab, given, root];
    const state = remembered();
    this.#board = Number(state.get("board"));
    if (!given.boards[this.#board]) this.#board = 0;
    this.#cleanFirst = state.get("first") !== "corrupt";
    this.#chosen = {
      clean: numbers(state.get("clean"), this.#fields) ?? this.#fields.map(() => 0),
      corrupt: numbers(state.get("corrupt"), this.#fields) ?? this.#example(),
    };
    this.#build();
  }

  get #fields() {
    return this.#given.boards[this.#board].fields;
  }

  get #questions() {
    return this.#given.boards[this.#board].questions;
  }

  /** Values of the corrupt picture that make a pair with the first of every field. */
  #example() {
    const asked = this.#fields.findIndex((field) => field.name in this.#questions);
    return this.#fields.map((_, i) => Number(i === asked));
  }

  // ---- what is on the page

  #build() {
    const boards = this.#given.boards.map((board, i) => make("option", { value: i }, board.name));
    this.#parts = {
      board: make("select", { onchange: (event) => this.#choose({ board: Number(event.target.value) }) }, boards),
      first: make("select", { onchange: (event) => this.#choose({ cleanFirst: event.target.value === "clean" }) }),
      fields: { clean: make("fieldset"), corrupt: make("fieldset") },
      question: make("p", { className: "lab-question" }),
      verdict: make("p", { className: "lab-verdict", role: "status" }),
      runs: make("div", { className: "lab-panels" }),
      measure: make("button", {
        type: "button", onclick: () => tried(this.#root, this.#parts.said, () => this.#measure()),
      }, "Map the layer outputs"),
      map: make("div"),
      said: make("p", { className: "lab-result", role: "status" }),
    };
    const parts = this.#parts;
    this.#root.replaceChildren(
      make("div", { className: "lab-controls" }, this.#lab.switcher, make("label", {}, "Scenes with ", parts.board)),
      make("div", { className: "lab-controls lab-fields" }, Object.values(parts.fields)),
      make("div", { className: "lab-controls" }, make("label", {}, "Name first ", parts.first)),
      parts.question, parts.verdict, parts.runs,
      make("div", { className: "lab-controls" }, parts.measure), parts.map, parts.said);
  }

  async #choose({ board = this.#board, cleanFirst = this.#cleanFirst }) {
    if (board !== this.#board) {
      this.#board = board;
      this.#chosen = { clean: this.#fields.map(() => 0), corrupt: this.#example() };
    }
    this.#cleanFirst = cleanFirst;
    await this.#update();
  }

  async #change(run, field, value) {
    this.#chosen[run][field] = value;
    await this.#update();
  }

  #update() {
    return tried(this.#root, this.#parts.verdict, () => this.show());
  }

  #showControls() {
    const parts = this.#parts;
    parts.board.value = this.#board;
    for (const [run, box] of Object.entries(parts.fields)) {
      const lists = this.#fields.map(({ label, values }, i) =>
        make("label", {}, `${label} `, make("select",
          { onchange: (event) => this.#change(run, i, Number(event.target.value)) },
          values.map((value, j) => make("option", { value: j, selected: j === this.#chosen[run][i] }, value)))));
      const focused = [...box.querySelectorAll("select")].indexOf(document.activeElement);
      box.replaceChildren(make("legend", {}, RUNS[run]), ...lists);
      box.querySelectorAll("select")[focused]?.focus();
    }
    const differing = this.#asking();
    const word = (run) => this.#fields[differing].values[this.#chosen[run][differing]];
    parts.first.disabled = differing < 0;
    parts.first.replaceChildren(...["clean", "corrupt"].map((run) =>
      make("option", { value: run }, differing < 0 ? "-" : `“${word(run)}”, the ${run} answer`)));
    parts.first.value = this.#cleanFirst ? "clean" : "corrupt";
  }

  // ---- what is asked

  /** Numbers of the fields in which the pictures differ. */
  #differing() {
    const { clean, corrupt } = this.#chosen;
    return this.#fields.map((_, i) => i).filter((i) => clean[i] !== corrupt[i]);
  }

  /** The number of the field that the question asks for: the first that differs and can be asked for; or -1. */
  #asking() {
    return this.#differing().find((i) => this.#fields[i].name in this.#questions) ?? -1;
  }

  #words(run) {
    return Object.fromEntries(this.#fields.map(({ name, values }, i) => [name, values[this.#chosen[run][i]]]));
  }

  /** The composed scene, in the form of the manifest's; null if no question tells the pictures apart. */
  #compose(pictures) {
    const field = this.#fields[this.#asking()]?.name;
    if (!field) return null;
    const [clean, corrupt] = [this.#words("clean"), this.#words("corrupt")];
    const [first, second] = this.#cleanFirst ? [clean, corrupt] : [corrupt, clean];
    const words = { ...clean, first: first[field], second: second[field] };
    const question = this.#questions[field].replace(/{(\w+)}/g, (_, name) => words[name]);
    const { vocabulary, pixels, image } = this.#lab.manifest;
    const made = asked(question, vocabulary, this.#given);
    const options = [clean[field], corrupt[field]];
    const ids = options.map((word) => idOf(word, vocabulary, this.#given.spelling));
    const role = (id, i) => (i === image?.start ? "image" : ["correct", "incorrect"][ids.indexOf(id)] ?? "other");
    return {
      id: SCENE, question, ...made, options, option_ids: ids, roles: made.ids.map(role),
      images: { ...pictures, blank: blank(pixels.size, this.#given.blank) },
    };
  }

  async #picture(run) {
    return fetchPng(new URL(`compose/${[this.#board, ...this.#chosen[run]].join("-")}.png`, this.#lab.url));
  }

  // ---- what the model says

  async show() {
    const turn = ++this.#turn;
    const parts = this.#parts;
    this.#root.setAttribute("aria-busy", "true");
    this.#showControls();
    remember({
      board: String(this.#board), clean: this.#chosen.clean.join("."), corrupt: this.#chosen.corrupt.join("."),
      first: this.#cleanFirst ? null : "corrupt",
    });
    const [clean, corrupt] = await Promise.all([this.#picture("clean"), this.#picture("corrupt")]);
    if (turn !== this.#turn) return;
    this.#scene = this.#compose({ clean, corrupt });
    let scores = {};
    if (this.#scene) {
      await this.#lab.client.meet([this.#scene]);
      scores = await this.#lab.client.read(SCENE);
      if (turn !== this.#turn) return;
    }
    parts.question.textContent = this.#scene?.question ?? "";
    parts.verdict.textContent = this.#verdict(scores);
    parts.verdict.classList.toggle("lab-is-pair", this.#isPair(scores));
    parts.measure.hidden = !this.#isPair(scores);
    parts.map.replaceChildren();
    parts.said.textContent = "";
    const pictures = { clean, corrupt, ...(this.#scene && { blank: this.#scene.images.blank }) };
    const panels = Object.entries(pictures).map(([run, picture]) => described({
      title: RUNS[run], picture: canvasOf(picture, this.#alt(run)), scene: this.#scene, score: scores[run],
    }));
    const { picture, share } = changes(clean, corrupt);
    const text = `${(100 * share).toFixed(0)} % of the pixels change`;
    panels.push(described({ title: "Changed pixels", picture: canvasOf(picture, text), text }));
    parts.runs.replaceChildren(...panels);
    this.#root.setAttribute("aria-busy", "false");
  }

  #alt(run) {
    if (run === "blank") return "A grey picture";
    return this.#fields.map(({ label, values }, i) => `${label}: ${values[this.#chosen[run][i]]}`).join(", ");
  }

  #right(scores) {
    return { clean: scores.clean?.L > 0, corrupt: scores.corrupt?.L < 0 };
  }

  #isPair(scores) {
    const { clean, corrupt } = this.#right(scores);
    return this.#differing().length === 1 && clean && corrupt;
  }

  #verdict(scores) {
    const differing = this.#differing().map((i) => this.#fields[i].label);
    if (!differing.length) return "No pair: the pictures are the same. Change one field of the corrupt picture.";
    if (!this.#scene) return `No pair: no question asks for what differs (${differing.join(", ")}).`;
    const right = this.#right(scores);
    const wrong = ["clean", "corrupt"].filter((run) => !right[run]);
    const reasons = [];
    if (differing.length > 1) reasons.push(`${differing.length} fields differ (${differing.join(", ")})`);
    if (wrong.length) reasons.push(`the model's answer to the ${wrong.join(" and the ")} picture is wrong`);
    if (reasons.length) return `No pair: ${reasons.join(", and ")}.`;
    return `A pair: one field differs (${differing[0]}), and both answers are correct.`;
  }

  /** What each layer's output at each token moves by itself, from the clean into the corrupt run. */
  async #measure() {
    const [turn, scene] = [this.#turn, this.#scene];
    const { layers } = this.#lab.manifest.shape;
    const { said, map } = this.#parts;
    const grid = new Grid({
      label: "Enough here? Layer outputs: tokens by layers",
      rows: tokenRows(scene),
      layers,
      cell: (row, layer) => siteOf(scene, "layer_output", layer, row, null),
      source: "clean",
      pick: ([site]) => { said.textContent = this.#told(site, shares.get(site.key)); },
    });
    const sites = grid.sites.flat();
    said.textContent = `Measuring ${sites.length} patched runs ...`;
    const unpatched = await this.#lab.client.read(SCENE);
    const scores = await this.#lab.client.patch(SCENE, "denoise", sites.map((site) => [site]));
    if (turn !== this.#turn) return;
    const shares = new Map(sites.map((site, i) => [site.key, moved(unpatched, "corrupt", scores[i])]));
    grid.show(new Map(), shares);
    map.replaceChildren(grid.element);
    const best = sites.reduce((top, site) => (shares.get(site.key) > shares.get(top.key) ? site : top));
    said.textContent = `${sites.length} patched runs. Most is moved by the ${this.#told(best, shares.get(best.key))}`;
  }

  #told(site, share) {
    return `${site.title}: ${percent(share)} of ${GAP}, from the clean into the corrupt run.`;
  }
}

/** The numbers in an address such as "0.2.1", one of each field's values; null if they are no such numbers. */
function numbers(text, fields) {
  const found = (text ?? "").split(".");
  const fits = (one, i) => /^\d+$/.test(one) && one < fields[i].values.length;
  return found.length === fields.length && found.every(fits) ? found.map(Number) : null;
}
