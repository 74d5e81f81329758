// What the reader has chosen: a scene, a view and the carried sites; and how the page's address keeps it.
//
// A view is a component, of which each cell is the whole module at a token, or "heads:" and a component, of which
// each cell is one head at one token.

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
  return { component, layer, token, head, key, title: `${what}, layer ${layer}, at “${scene.tokens[token]}”` };
}

export function toAddress(scene, view, token, sites) {
  const state = new URLSearchParams({ pair: scene.id, view, token });
  if (sites.length) state.set("carry", sites.map((site) => site.key).join(" "));
  return `#${state}`;
}

/** {scene, view, token, sites}; for what the address does not name, or names wrongly, the usual. */
export function fromAddress(manifest, hash) {
  const state = new URLSearchParams(hash.slice(1));
  const scene = manifest.scenes.find((one) => one.id === state.get("pair")) ?? manifest.scenes[0];
  const views = [...manifest.components, ...manifest.per_head.map((name) => `heads:${name}`)];
  const view = views.includes(state.get("view")) ? state.get("view") : "layer_output";
  const token = inside(state.get("token"), scene.ids.length) ? Number(state.get("token")) : correctToken(scene);
  const keys = (state.get("carry") ?? "").split(" ").filter((key) => exists(manifest, scene, key));
  return { scene, view, token, sites: keys.map((key) => fromKey(scene, key)) };
}

/** The first token of the correct option in the question. */
export function correctToken(scene) {
  return scene.roles.indexOf("correct");
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
