// Runs the model beside the page, which thus stays responsive. Each request {id, call, given} gets one answer.

import { load } from "./model.js";

let model;

const calls = {
  async load(id, url) {
    model = await load(url, (bytes, of) => postMessage({ id, progress: [bytes, of] }));
  },
  read: (id, scene) => model.read(scene),
  meet: (id, scenes) => model.meet(scenes),
  patch: (id, scene, direction, patches, donor) => model.patch(scene, direction, patches, donor),
  write: (id, scene, given, patches) => model.write(scene, given, patches),
};

async function answer({ id, call, given }) {
  try {
    postMessage({ id, result: await calls[call](id, ...given) });
  } catch (error) {
    postMessage({ id, error: String(error.message ?? error) });
  }
}

// One after the other: a session computes one thing at a time.
let last = Promise.resolve();
self.onmessage = ({ data }) => {
  last = last.then(() => answer(data));
};
