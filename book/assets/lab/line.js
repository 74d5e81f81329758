// L*, L' and L of one patched run on one line of logits, and in words.

import { GAP, make, percent, signed } from "./dom.js";
import { moved } from "./moved.js";
import { unmarked } from "./state.js";

/** A line from L* (corrupt) to L (clean) with zero, where the answer flips, and the patched run's L'. */
export function drawLine(corrupt, clean, patched) {
  const [low, high] = [Math.min(corrupt, patched, 0), Math.max(clean, patched, 0)];
  const at = (value) => 9 + (82 * (value - low)) / (high - low);
  const mark = (kind, value, ...text) =>
    make("span", { className: `lab-mark lab-${kind}`, style: `left: ${at(value)}%` }, make("span", {}, ...text));
  const track = make("span", {
    className: "lab-track", style: `left: ${at(corrupt)}%; width: ${at(clean) - at(corrupt)}%`,
  });
  const label = `L* ${signed(corrupt, 2)}, L′ ${signed(patched, 2)}, L ${signed(clean, 2)} logits`;
  return make("div", { className: "lab-line", role: "img", "aria-label": label },
    track,
    mark("zero", 0, "0: flips"),
    mark("corrupt", corrupt, "L* ", signed(corrupt, 1)),
    mark("clean", clean, "L ", signed(clean, 1)),
    mark("patched", patched, "L′ ", signed(patched, 2)),
  );
}

/** What a run with a number of patched sites says, in a sentence; `base` and `runs` are those of moved.js. */
export function sentence(scene, runs, base, score, number) {
  const [correct, incorrect] = scene.options;
  const word = ({ L }) => (L > 0 ? correct : incorrect);
  if (!number) return `Nothing is carried. The model says “${word(score)}”.`;
  const change = `L′ is ${signed(score.L, 2)}, moved by ${percent(moved(runs, base, score))} of ${GAP}.`;
  const flips = word(score) !== word(runs[base]);
  const says = flips ? `The answer flips to “${word(score)}”.` : `The model still says “${word(score)}”.`;
  const likeliest = unmarked(score.likeliest[0].word);
  const other = scene.options.includes(likeliest) ? "" : ` (Its likeliest word is “${likeliest}”.)`;
  return `${change} ${says}${other}`;
}
