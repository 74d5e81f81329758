// What the page's address keeps of the reader's choices, so that they can be sent. Each section has names of its own.

const SECTIONS = {
  carry: ["pair", "view", "token", "carry"],
  looks: ["look", "heads", "reveal", "off"],
  compose: ["board", "clean", "corrupt", "first"],
};
let known = String(remembered()); // What the page has opened or kept; another address was put there by the reader.

/** The choices of this address, as URLSearchParams; an address of a heading has none. */
export function remembered() {
  return new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
}

/** Keep some choices, {name: text}, beside all others; null forgets one. */
export function remember(choices) {
  const all = remembered();
  for (const [name, text] of Object.entries(choices)) {
    all.delete(name);
    if (text !== null) all.append(name, text);
  }
  known = String(all);
  history.replaceState(null, "", `#${all}`);
}

/** Sections of which this address has choices; the one whose choices are the latest comes last. */
export function namedSections() {
  const names = [...remembered().keys()];
  const latest = (section) => Math.max(...SECTIONS[section].map((name) => names.lastIndexOf(name)));
  const named = Object.keys(SECTIONS).filter((section) => latest(section) >= 0);
  return named.sort((a, b) => latest(a) - latest(b));
}

/** Call `open` when the reader puts other choices into the address; Back from a heading brings no others. */
export function onLink(open) {
  addEventListener("hashchange", () => {
    const now = String(remembered());
    if (!now || now === known) return;
    known = now;
    open();
  });
}
