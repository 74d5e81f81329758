// A quiz: each question gets a button that says whether the chosen option is right, and why. What it says stands
// in the fold of answers, which is all that a reader without JavaScript needs.

function element(name, text, settings = {}) {
  return Object.assign(document.createElement(name), { textContent: text }, settings);
}

function status() {
  const line = element("p", "", { className: "said" });
  line.setAttribute("role", "status"); // screen readers say what changes in it
  return line;
}

/** Give a question its button; `tell` hears each verdict, true or false. */
function addButton(question, answer, tell) {
  const button = element("button", "Check", { type: "button" });
  const said = status();
  const inputs = [...question.querySelectorAll("input")];
  button.addEventListener("click", () => {
    const chosen = inputs.findIndex((input) => input.checked);
    if (chosen < 0) {
      said.textContent = "Choose an option first.";
      return;
    }
    const reason = answer.querySelectorAll("li")[chosen];
    const right = reason.classList.contains("right");
    said.replaceChildren(...reason.cloneNode(true).childNodes);
    question.dataset.verdict = right ? "right" : "wrong";
    tell(right);
  });
  question.append(button, said);
}

for (const quiz of document.querySelectorAll(".quiz")) {
  const questions = [...quiz.querySelectorAll("fieldset")];
  const answers = [...quiz.querySelectorAll(".answers > li")];
  const score = status();
  const first = new Map();
  questions.forEach((question, at) => addButton(question, answers[at], (right) => {
    if (!first.has(at)) first.set(at, right);
    const count = [...first.values()].filter(Boolean).length;
    score.textContent = `Right at the first try: ${count} of ${first.size} answered, of ${questions.length} questions.`;
  }));
  questions.at(-1).after(score);
}
