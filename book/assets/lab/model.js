// A BLIP in the browser: its clean and corrupt run, and runs into which activations are written. No page needed.
//
// A site is {component, layer, token, head}; without a head it is the whole module. A patch is a list of sites that
// one run copies together. L is logit(correct) - logit(incorrect).

import { decodePng, inflate } from "./png.js";

const RUNS_AT_ONCE = 16; // More need more memory, and are not faster.

/** Load the runtime and both graphs of a manifest; `progress(bytes, of)` is told of every piece that has arrived. */
export async function load(manifestUrl, progress = () => {}) {
  const manifest = await (await fetched(manifestUrl)).json();
  const files = manifest.files;
  const address = (name) => new URL(files[name].path, manifestUrl).href;
  const total = Object.values(files).reduce((sum, file) => sum + file.bytes, 0);
  let arrived = 0;
  const count = (bytes) => progress((arrived += bytes), total);
  const ort = await import(address("runtime"));
  count(files.runtime.bytes + files.glue.bytes);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { mjs: address("glue") };
  ort.env.wasm.wasmBinary = await unpacked(await download(address("wasm"), count));
  const tower = await ort.InferenceSession.create(await download(address("tower"), count));
  const text = await ort.InferenceSession.create(await download(address("text"), count));
  return new Model(ort, manifest, manifestUrl, tower, text);
}

async function fetched(url) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} cannot be loaded (${response.status}).`);
  return response;
}

async function download(url, count) {
  const parts = [];
  for (const reader = (await fetched(url)).body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return new Uint8Array(await new Blob(parts).arrayBuffer());
    parts.push(value);
    count(value.length);
  }
}

/** The bytes of a gzip file. Some servers unpack it on the way. */
async function unpacked(bytes) {
  return bytes[0] === 0x1f && bytes[1] === 0x8b ? inflate([bytes], "gzip") : bytes;
}

function below(value, end) {
  return Number.isInteger(value) && 0 <= value && value < end;
}

export class Model {
  #ort;
  #tower;
  #text;
  #url;
  #read = new Map();

  constructor(ort, manifest, url, tower, text) {
    this.manifest = manifest;
    this.#ort = ort;
    this.#url = url;
    this.#tower = tower;
    this.#text = text;
  }

  /** Run a scene's question with both of its pictures: {clean: score, corrupt: score}; see `patch`. */
  async read(id) {
    const { clean, corrupt } = await this.#runs(id);
    return { clean: clean.score, corrupt: corrupt.score };
  }

  /**
   * Copy the clean run's activations into the corrupt run ("denoise") or the corrupt run's into the clean one
   * ("noise"), once for each patch: a list of scores {L, correct, incorrect, likeliest}, in logits and a word.
   */
  async patch(id, direction, patches) {
    const runs = await this.#runs(id);
    const [base, source] = direction === "denoise" ? [runs.corrupt, runs.clean] : [runs.clean, runs.corrupt];
    const scores = [];
    for (let i = 0; i < patches.length; i += RUNS_AT_ONCE) {
      const mask = this.#mask(patches.slice(i, i + RUNS_AT_ONCE), this.#scene(id).ids.length);
      const { logits } = await this.#run(id, base.image, source.activations, mask, ["logits"]);
      scores.push(...this.#scores(id, logits));
    }
    return scores;
  }

  #scene(id) {
    const scene = this.manifest.scenes.find((one) => one.id === id);
    if (!scene) throw new Error(`There is no scene ${id}.`);
    return scene;
  }

  /** Both runs of a scene, each with its image's states, its activations and its score; they are kept. */
  async #runs(id) {
    if (!this.#read.has(id)) {
      const { images } = this.#scene(id);
      this.#read.set(id, { clean: await this.#look(id, images.clean), corrupt: await this.#look(id, images.corrupt) });
    }
    return this.#read.get(id);
  }

  async #look(id, file) {
    const response = await fetched(new URL(file, this.#url));
    const pixels = this.#pixels(await decodePng(new Uint8Array(await response.arrayBuffer())));
    const { image } = await this.#tower.run({ pixels });
    const { layers, components, width } = this.manifest.shape;
    const size = [layers, components, this.#scene(id).ids.length, width];
    const nothing = new this.#ort.Tensor("float32", new Float32Array(size.reduce((a, b) => a * b)), size);
    const mask = this.#mask([[]], size[2]);
    const { logits, activations } = await this.#run(id, image, nothing, mask, ["logits", "activations"]);
    return { image, activations: activations.reshape(size), score: this.#scores(id, logits)[0] };
  }

  /** A picture as the processor scales it, by colour, row and column. */
  #pixels({ width, height, pixels }) {
    const { size, rescale, mean, std } = this.manifest.pixels;
    if (width !== size || height !== size) throw new Error(`A picture is ${width} x ${height}, not ${size} x ${size}.`);
    const area = size * size;
    const scaled = new Float32Array(3 * area);
    for (let i = 0; i < area; i++) {
      for (let c = 0; c < 3; c++) scaled[c * area + i] = (pixels[3 * i + c] * rescale - mean[c]) / std[c];
    }
    return new this.#ort.Tensor("float32", scaled, [1, 3, size, size]);
  }

  #run(id, image, source, mask, wanted) {
    const scene = this.#scene(id);
    const ids = new this.#ort.Tensor("int32", Int32Array.from(scene.ids), [1, scene.ids.length]);
    return this.#text.run({ image, ids, source, mask }, wanted);
  }

  /** What each patch copies: 1 at its heads' slices, or at all slices of a module. */
  #mask(patches, tokens) {
    const { layers, components, heads } = this.manifest.shape;
    const size = [patches.length, layers, components, tokens, heads];
    const values = new Float32Array(size.reduce((a, b) => a * b));
    patches.forEach((sites, run) => {
      for (const { component, layer, token, head } of sites) {
        const c = this.manifest.components.indexOf(component);
        if (c < 0 || !below(layer, layers) || !below(token, tokens) || !(head == null || below(head, heads))) {
          throw new Error(`The model has no ${component} in layer ${layer} at token ${token}, head ${head}.`);
        }
        const at = (((run * layers + layer) * components + c) * tokens + token) * heads;
        if (head == null) values.fill(1, at, at + heads);
        else values[at + head] = 1;
      }
    });
    return new this.#ort.Tensor("float32", values, size);
  }

  #scores(id, logits) {
    const [correct, incorrect] = this.#scene(id).option_ids;
    const [runs, vocabulary] = logits.dims;
    return Array.from({ length: runs }, (_, run) => {
      const row = logits.data.subarray(run * vocabulary, (run + 1) * vocabulary);
      const best = row.reduce((top, value, i) => (value > row[top] ? i : top), 0);
      return {
        L: row[correct] - row[incorrect],
        correct: row[correct],
        incorrect: row[incorrect],
        likeliest: this.manifest.vocabulary[best],
      };
    });
  }
}
