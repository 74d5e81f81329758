// Elements of a page, in one call each.

/** An element with properties ("on..." are listeners, those with a dash attributes) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.flat());
  return element;
}

/** A table of a heading line and further lines, the first of each a heading; it scrolls by itself where it is wide. */
export function table(label, heading, lines) {
  const body = lines.map(([first, ...others]) =>
    make("tr", {}, make("th", { scope: "row" }, first), others.map((one) => make("td", {}, one))));
  return make("div", { className: "lab-scroll", role: "region", tabIndex: 0, "aria-label": label },
    make("table", { className: "lab-table" },
      make("thead", {}, make("tr", {}, heading.map((name) => make("th", { scope: "col" }, name)))),
      make("tbody", {}, body)));
}

/** What numbers of percent are parts of; no line ends within it. */
export const GAP = "L\u00a0−\u00a0L*";

/** A number of percent with a sign; no line ends within it. */
export function percent(value, digits = 0) {
  return `${signed(value, digits)}\u00a0%`;
}

/** A number with a sign, a real minus and no minus zero. */
export function signed(value, digits) {
  const text = Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return text;
  return (value < 0 ? "−" : "+") + text;
}
