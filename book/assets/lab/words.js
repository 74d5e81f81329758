// A picture beside what the model says of it.

import { make, signed } from "./dom.js";
import { unmarked } from "./state.js";

/**
 * A panel with a title and a picture. With a scene and its score, the panel has the answer, L, and the five likeliest
 * words; otherwise a text.
 */
export function described({ title, picture, scene, score, text = "" }) {
  const said = score
    ? [
        make("p", {}, "The model says ", make("strong", {}, scene.options[score.L > 0 ? 0 : 1]),
          `, with L\u00a0=\u00a0${signed(score.L, 2)}.`),
        make("p", { className: "lab-words" }, `Likeliest words: ${score.likeliest.map(likely).join(", ")}.`),
      ]
    : [make("p", {}, text)];
  return make("section", { className: "lab-panel", "aria-label": title },
    make("p", { className: "lab-title" }, make("strong", {}, title)),
    make("div", { className: "lab-run" }, picture, make("div", {}, said)));
}

function likely({ word, share }) {
  const rounded = (100 * share).toFixed(1);
  return `${unmarked(word)}\u00a0${rounded === "0.0" ? "under\u00a00.1" : rounded}\u00a0%`;
}
