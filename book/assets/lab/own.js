// The reader's own picture and question, of which the model has seen nothing like.

import { make } from "./dom.js";
import { blank, canvasOf, fromFile } from "./picture.js";
import { asked, known } from "./question.js";
import { described } from "./words.js";

const SCENE = "own";
const WARNING =
  "The model has only seen rendered scenes such as those above. Your picture is out of its distribution, so what it " +
  "says is no finding about pictures like yours. Your browser also resizes the picture otherwise than Pillow, the " +
  "library's tool, and may add noise to what a page reads of it, so the numbers are not exactly the library's. " +
  "The picture stays on your device.";

/** Show the form in an element, for a lab and the contents of compose.json. */
export function openOwn(lab, given, element) {
  const parts = {
    file: make("input", { type: "file", accept: "image/*" }),
    question: make("input", { type: "text", value: "Is this bell red or blue?", size: 40 }),
    result: make("div", { className: "lab-panels" }),
    status: make("p", { className: "lab-status", role: "status" }),
  };
  const vocabulary = known(lab.manifest.vocabulary, given.spelling).sort().join(", ");
  const form = make("form", { className: "lab-controls", onsubmit: (event) => (event.preventDefault(), submit()) },
    make("label", {}, "Picture ", parts.file),
    make("label", {}, "Question ", parts.question),
    make("button", { type: "submit" }, "Ask"));
  element.className = "lab-own";
  element.append(
    make("p", { className: "lab-title" }, make("strong", {}, "Your own picture and question")),
    make("p", { className: "lab-legend" }, WARNING), form, parts.status, parts.result,
    make("details", {}, make("summary", {}, "The words that the model knows"), make("p", {}, vocabulary)));

  async function submit() {
    parts.result.replaceChildren();
    try {
      parts.status.textContent = "";
      await ask();
      parts.status.textContent = "Out of distribution: the model was not trained on anything like this.";
    } catch (error) {
      parts.status.textContent = error.message;
    }
  }

  async function ask() {
    const { vocabulary: words, pixels } = lab.manifest;
    const made = asked(parts.question.value, words, given);
    const [file] = parts.file.files;
    if (!file) throw new Error("Choose a picture first.");
    const own = await fromFile(file, pixels.size).catch(() => {
      throw new Error(`${file.name} is no picture that this browser can read.`);
    });
    const scene = { id: SCENE, ...made, images: { own, blank: blank(pixels.size, given.blank) } };
    await lab.client.meet([scene]);
    const scores = await lab.client.read(SCENE);
    parts.result.replaceChildren(
      described({ title: "Your picture", picture: canvasOf(own, file.name), scene, score: scores.own }),
      described({
        title: "Blank picture", picture: canvasOf(scene.images.blank, "A grey picture"), scene, score: scores.blank,
      }));
  }
}
