// A model in the browser: its clean and corrupt run, and runs into which activations are written. No page needed.
//
// A site is {component, layer, token, head}; without a head it is the whole module. A patch is a list of sites that
// one run copies together. L is logit(correct) - logit(incorrect). Where the image is among the model's tokens, it
// counts as one token: a site there is all that the image became.

import { fetched } from "./fetched.js";
import { fetchPng, inflate } from "./png.js";

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
  #scenes;
  #read = new Map();

  constructor(ort, manifest, url, tower, text) {
    this.manifest = manifest;
    this.#scenes = new Map(manifest.scenes.map((scene) => [scene.id, scene]));
    this.#ort = ort;
    this.#url = url;
    this.#tower = tower;
    this.#text = text;
  }

  /**
   * Make further scenes known, which have the form of the manifest's. An image may also be a picture {width, height,
   * pixels}, as of png.js. A scene of a known name takes its place.
   */
  meet(scenes) {
    for (const scene of scenes) {
      this.#scenes.set(scene.id, scene);
      this.#read.delete(scene.id);
    }
  }

  /** Run a scene's question with each of its pictures: {clean: score, corrupt: score}; see `patch`. */
  async read(id) {
    const scores = {};
    for (const run of Object.keys(this.#scene(id).images)) scores[run] = (await this.#unpatched(id, run)).score;
    return scores;
  }

  /**
   * Copy the clean run's activations into the corrupt run ("denoise") or the corrupt run's into the clean one
   * ("noise"), once for each patch: a list of scores {L, correct, incorrect, likeliest}, in logits; `likeliest` has
   * the five likeliest words, {word, share}.
   * With a donor, another scene with as many tokens, its clean or corrupt run is copied from instead.
   */
  async patch(id, direction, patches, donor = id) {
    const [base, source] = direction === "denoise" ? ["corrupt", "clean"] : ["clean", "corrupt"];
    const { activations } = await this.#unpatched(donor, source);
    return this.#patched(id, await this.#unpatched(id, base), activations, patches);
  }

  /**
   * Write given activations into the clean run, once for each patch, as `patch` writes another run's: those of one
   * component at one token, of every layer (layers x width values).
   */
  async write(id, { component, token, values }, patches) {
    const source = this.#nothing(id);
    const [layers, components, tokens, width] = source.dims;
    const c = this.manifest.components.indexOf(component);
    const [place] = this.#places(token);
    for (let layer = 0; layer < layers; layer++) {
      const at = ((layer * components + c) * tokens + place) * width;
      source.data.set(values.subarray(layer * width, (layer + 1) * width), at);
    }
    return this.#patched(id, await this.#unpatched(id, "clean"), source, patches);
  }

  /** The scores of runs that copy from a source into a base run, of which `#unpatched` tells. */
  async #patched(id, base, source, patches) {
    const runs = patches.map((patch, i) => ({ i, patch, first: this.#firstChanged(id, base, source, patch) }));
    runs.sort((one, other) => one.first - other.first); // So that those run together which leave out as many tokens.
    const scores = [];
    for (let at = 0; at < runs.length; at += RUNS_AT_ONCE) {
      const these = runs.slice(at, at + RUNS_AT_ONCE);
      const mask = this.#mask(id, these.map(({ patch }) => patch));
      const { logits } = await this.#run(id, base, these[0].first, source, mask, ["logits"]);
      this.#scores(id, logits).forEach((score, j) => { scores[these[j].i] = score; });
    }
    return scores;
  }

  /**
   * The first token at which a patch writes something new. In a model with a memory, all tokens before it are as in the
   * base run. Any other model runs all tokens.
   */
  #firstChanged(id, { activations, memory }, source, patch) {
    if (!memory) return 0;
    const [, components, tokens, width] = source.dims;
    const changed = patch.flatMap(({ component, layer, token }) => this.#places(token).filter((place) => {
      const c = this.manifest.components.indexOf(component);
      const at = ((layer * components + c) * tokens + place) * width;
      const end = at + width;
      return source.data.subarray(at, end).some((value, i) => value !== activations.data[at + i]);
    }));
    return Math.min(tokens - 1, ...changed); // One is run at least.
  }

  #scene(id) {
    const scene = this.#scenes.get(id);
    if (!scene) throw new Error(`There is no scene ${id}.`);
    return scene;
  }

  /** A run of a scene with its image's states, its activations, its score and perhaps its memory; it is kept. */
  async #unpatched(id, run) {
    if (!this.#read.has(id)) this.#read.set(id, new Map());
    const known = this.#read.get(id);
    if (!known.has(run)) known.set(run, await this.#look(id, this.#scene(id).images[run]));
    return known.get(run);
  }

  async #look(id, file) {
    const pixels = this.#pixels(file.pixels ? file : await fetchPng(new URL(file, this.#url)));
    const { image } = await this.#tower.run({ pixels });
    const nothing = this.#nothing(id);
    const mask = this.#mask(id, [[]]);
    const { logits, activations, memory } = await this.#run(id, { image }, 0, nothing, mask, this.#text.outputNames);
    return { image, memory, activations: activations.reshape(nothing.dims), score: this.#scores(id, logits)[0] };
  }

  /** Zeros of the form of a run's activations. */
  #nothing(id) {
    const { layers, components, width } = this.manifest.shape;
    const size = [layers, components, this.#ids(id).length, width];
    return new this.#ort.Tensor("float32", new Float32Array(size.reduce((a, b) => a * b)), size);
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

  /** Runs of the text graph, see tools/lab/graphs.py, without the first tokens of a base run, which remembers them. */
  #run(id, { image, memory }, first, source, mask, wanted) {
    const ids = this.#ids(id);
    const tensor = new this.#ort.Tensor("int32", Int32Array.from(ids), [1, ids.length]);
    const before = this.#text.inputNames.includes("before") && { before: this.#before(memory, first) };
    return this.#text.run({ image, ids: tensor, source, mask, ...before }, wanted);
  }

  /** The keys and values of a memory's first tokens, or of none. */
  #before(memory, number) {
    const { layers, heads, width } = this.manifest.shape;
    const size = width / heads;
    const values = new Float32Array(layers * 2 * heads * number * size);
    for (let i = 0; number && i < layers * 2 * heads; i++) {
      const at = i * memory.dims[3] * size;
      values.set(memory.data.subarray(at, at + number * size), i * number * size);
    }
    return new this.#ort.Tensor("float32", values, [layers, 2, heads, number, size]);
  }

  /** The ids of all tokens that the model sees. */
  #ids(id) {
    const scene = this.#scene(id);
    return scene.ids.flatMap((one, token) => this.#places(token).map(() => one));
  }

  /** The places in the model's sequence of one of the scene's tokens. */
  #places(token) {
    const { start, tokens } = this.manifest.image ?? { start: Infinity };
    if (token === start) return Array.from({ length: tokens }, (_, i) => start + i);
    return [token < start ? token : token + tokens - 1];
  }

  /** What each patch copies: 1 at its heads' slices, or at all slices of a module. */
  #mask(id, patches) {
    const { layers, components, heads } = this.manifest.shape;
    const tokens = this.#ids(id).length;
    const rows = this.#scene(id).ids.length;
    const size = [patches.length, layers, components, tokens, heads];
    const values = new Float32Array(size.reduce((a, b) => a * b));
    patches.forEach((sites, run) => {
      for (const { component, layer, token, head } of sites) {
        const c = this.manifest.components.indexOf(component);
        if (c < 0 || !below(layer, layers) || !below(token, rows) || !(head == null || below(head, heads))) {
          throw new Error(`The model has no ${component} in layer ${layer} at token ${token}, head ${head}.`);
        }
        for (const place of this.#places(token)) {
          const at = (((run * layers + layer) * components + c) * tokens + place) * heads;
          if (head == null) values.fill(1, at, at + heads);
          else values[at + head] = 1;
        }
      }
    });
    return new this.#ort.Tensor("float32", values, size);
  }

  #scores(id, logits) {
    const [correct, incorrect] = this.#scene(id).option_ids;
    const [runs, vocabulary] = logits.dims;
    return Array.from({ length: runs }, (_, run) => {
      const row = logits.data.subarray(run * vocabulary, (run + 1) * vocabulary);
      return {
        L: row[correct] - row[incorrect],
        correct: row[correct],
        incorrect: row[incorrect],
        likeliest: this.#likeliest(row),
      };
    });
  }

  #likeliest(row) {
    const top = Array.from(row, (_, i) => i).sort((a, b) => row[b] - row[a]);
    const all = row.reduce((sum, value) => sum + Math.exp(value - row[top[0]]), 0);
    return top.slice(0, 5).map((i) => ({
      word: this.manifest.vocabulary[i], share: Math.exp(row[i] - row[top[0]]) / all,
    }));
  }
}
