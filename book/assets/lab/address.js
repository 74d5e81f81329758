// What the page's address keeps of the reader's choices, so that they can be sent. Each section has names of its own.

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
  history.replaceState(null, "", `#${all}`);
}
