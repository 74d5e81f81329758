// The patch lab's frame: each section of the page has a Start button, which loads the model once for all of them.
//
// A section is an element <div class="lab" data-section="NAME"> and a module NAME.js with `open(lab, element)`, which
// shows it for a lab {client, manifest, url, switcher}. Its data-models are those that it can show; the switcher is a
// list of them for the section to place.

import { namedSections, onLink, remember, remembered } from "./address.js";
import { Client } from "./client.js";
import { make } from "./dom.js";
import { fetched } from "./fetched.js";

const labs = new Map(); // model -> promise of its lab

async function described(model) {
  const url = new URL(`${model}/manifest.json`, import.meta.url).href;
  return { url, manifest: await (await fetched(url)).json() };
}

async function loaded(model, progress) {
  const { url, manifest } = await described(model);
  const client = new Client();
  await client.load(url, progress);
  return { client, manifest, url };
}

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

function modelsOf(root) {
  return root.dataset.models.split(" ");
}

/** A list of the section's models; another choice opens the section anew. */
function switcher(root, model) {
  const choose = () => (remember({ model: list.value }), start(root, list.value));
  const list = make("select", { onchange: choose },
    modelsOf(root).map((name) => make("option", { value: name, selected: name === model }, name)));
  return make("label", {}, "Model ", list);
}

/** The model that the address asks for, if the section has it. */
function asked(root) {
  const model = remembered().get("model");
  return modelsOf(root).includes(model) ? model : modelsOf(root)[0];
}

/** Show the Start button, which says how much will be loaded. */
async function offer(root) {
  const model = asked(root);
  const { manifest } = await described(model);
  const bytes = Object.values(manifest.files).reduce((sum, file) => sum + file.bytes, 0);
  const size = labs.has(model) ? "" : ` (loads ${megabytes(bytes)})`;
  root.replaceChildren(
    make("button", { type: "button", className: "lab-start", onclick: () => start(root, model) },
      `Start the lab${size}`));
}

/** The section that the address names last. */
function named() {
  const section = namedSections().at(-1);
  return section && document.querySelector(`.lab[data-section="${section}"]`);
}

/** Bring a section with its heading into view; the browser knows only addresses of headings. */
function bring(root) {
  (root?.closest("section") ?? root)?.scrollIntoView({ block: "start" });
}

/** Open what a link says that the reader has put into the address: sections in use anew, the one it names last. */
async function follow() {
  const target = named();
  const sections = namedSections().map((name) => document.querySelector(`.lab[data-section="${name}"]`));
  for (const root of sections.length ? sections : document.querySelectorAll(".lab")) {
    if (root.querySelector(".lab-start")) await offer(root);
    else await start(root, asked(root));
  }
  bring(target);
  target?.querySelector("select, button")?.focus({ preventScroll: true });
}

async function start(root, model) {
  const bar = make("progress", { max: 1, value: 0, "aria-label": "Loading the model" });
  const amount = make("span", { "aria-hidden": "true" });
  const said = make("span", { role: "status" }, `Loading ${model} ...`);
  root.replaceChildren(make("div", { className: "lab-loading" }, bar, said, amount));
  try {
    if (!labs.has(model)) {
      labs.set(model, loaded(model, (bytes, of) => {
        bar.value = bytes / of;
        amount.textContent = `${megabytes(bytes)} of ${megabytes(of)}`;
      }));
    }
    const [lab, section] = await Promise.all([labs.get(model), import(`./${root.dataset.section}.js`)]);
    document.querySelectorAll(".lab:has(> .lab-start)").forEach(offer);
    root.replaceChildren();
    await section.open({ ...lab, switcher: switcher(root, model) }, root);
    root.querySelector("select, button")?.focus();
  } catch (error) {
    const again = make("button", { type: "button", onclick: () => location.reload() }, "Try again");
    root.replaceChildren(make("p", { role: "alert" }, `The lab cannot start: ${error.message}`), again);
  }
}

if ("WebAssembly" in window && "DecompressionStream" in window && "Worker" in window) {
  onLink(follow);
  // The page has its height once all buttons are there.
  Promise.all([...document.querySelectorAll(".lab")].map(offer)).then(() => bring(named()));
}
