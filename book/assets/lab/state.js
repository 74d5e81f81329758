// What the reader has chosen: a scene, a view and the carried sites; and how the page's address keeps it.
//
// A view is a component, of which each cell is the whole module at a token, or "heads:" and a component, of which
// each cell is one head at one token.

import { make } from "./dom.js";

export const NAMES = {
  layer_output: "Layer outputs", self_attention: "Self-attention", cross_attention: "Cross-attention", mlp: "MLPs",
};

export function componentOf(view) {
  return view.replace("heads:", "");
}

/** A site of model.js with a key of its own and its name in words; without a head, `head` is null. */
export function siteOf(scene, component, layer, token, head) {
  const whole = NAMES[component].toLowerCase().replace(/s$/, "").replace("mlp", "MLP");
  const what = head === null ? whole : `${whole} head ${head}`;
  const key = [component, layer, token, ...(head === null ? [] : [head])].join(".");
  return { component, layer, token, head, key, title: `${what}, layer ${layer}, at ${quoted(scene, token)}` };
}

/** A token without its tokenizer's mark of a word's beginning, and a new line visibly. */
export function unmarked(token) {
  return token.replace(/^▁(?=.)/, "").replace("\n", "↵");
}

/** What the page calls one of a scene's tokens. */
export function tokenName(scene, token) {
  return scene.roles[token] === "image" ? "the image" : unmarked(scene.tokens[token]);
}

/** A list's entries for all pairs of a manifest. */
export function pairOptions(manifest) {
  return manifest.scenes.map((scene) => make("option", { value: scene.id }, `${scene.question} (${scene.slot})`));
}

/** The rows of a grid of tokens, see grid.js: each has the class of its token's role. */
export function tokenRows(scene) {
  return scene.tokens.map((_, i) => ({ name: tokenName(scene, i), mark: `lab-is-${scene.roles[i]}` }));
}

function quoted(scene, token) {
  const name = tokenName(scene, token);
  return scene.roles[token] === "image" ? name : `“${name}”`;
}

/** What address.js keeps of it. */
export function toAddress(scene, view, token, sites) {
  return { pair: scene.id, view, token, carry: sites.map((site) => site.key).join(" ") || null };
}

/** {scene, view, token, sites}; for what the address does not name, or names wrongly, the usual. */
export function fromAddress(manifest, state) {
  const scene = manifest.scenes.find((one) => one.id === state.get("pair")) ?? manifest.scenes[0];
  const views = [...manifest.components, ...manifest.per_head.map((name) => `heads:${name}`)];
  const view = views.includes(state.get("view")) ? state.get("view") : "layer_output";
  const token = inside(state.get("token"), scene.ids.length) ? Number(state.get("token")) : usualToken(manifest, scene);
  const keys = (state.get("carry") ?? "").split(" ").filter((key) => exists(manifest, scene, key));
  return { scene, view, token, sites: keys.map((key) => fromKey(scene, key)) };
}

/** The first token at which the book measures the heads of this model. */
export function usualToken(manifest, scene) {
  return scene.roles.indexOf(manifest.effect_role);
}

function exists({ components, per_head: perHead, shape }, scene, key) {
  const [component, layer, token, head, ...more] = key.split(".");
  const whole = components.includes(component) && inside(layer, shape.layers) && inside(token, scene.ids.length);
  const headed = head === undefined || (perHead.includes(component) && inside(head, shape.heads));
  return whole && headed && !more.length;
}

function fromKey(scene, key) {
  const [component, ...numbers] = key.split(".");
  const [layer, token, head = null] = numbers.map(Number);
  return siteOf(scene, component, layer, token, head);
}

function inside(text, end) {
  return /^\d+$/.test(text ?? "") && Number(text) < end;
}
