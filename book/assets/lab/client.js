// The page's side of worker.js: asynchronous `load`, and what a model does in model.js.

export class Client {
  #worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  #waiting = new Map();
  #last = 0;

  constructor() {
    this.#worker.onmessage = ({ data }) => this.#answer(data);
    this.#worker.onerror = (event) => {
      for (const { reject } of this.#waiting.values()) reject(new Error(event.message || "The worker cannot start."));
      this.#waiting.clear();
    };
  }

  load(url, progress) {
    return this.#ask("load", [url], progress);
  }

  read(scene) {
    return this.#ask("read", [scene]);
  }

  meet(scenes) {
    return this.#ask("meet", [scenes]);
  }

  patch(scene, direction, patches, donor) {
    return this.#ask("patch", [scene, direction, patches, donor]);
  }

  write(scene, given, patches) {
    return this.#ask("write", [scene, given, patches]);
  }

  #ask(call, given, progress) {
    const id = ++this.#last;
    this.#worker.postMessage({ id, call, given });
    return new Promise((resolve, reject) => this.#waiting.set(id, { resolve, reject, progress }));
  }

  #answer({ id, result, error, progress }) {
    const one = this.#waiting.get(id);
    if (progress) return one.progress?.(...progress);
    this.#waiting.delete(id);
    if (error) one.reject(new Error(error));
    else one.resolve(result);
  }
}
