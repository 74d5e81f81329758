// A press on a cell of a table that moves over other cells takes them all, by mouse, pen or finger.

const cellOf = (event) => event.target.closest?.("td button");

/** Call `take(buttons)` with the cells' buttons that a press has moved over. A press that stays on one is its click. */
export function onDrag(table, take) {
  let taken = false; // whether the last press took several
  table.addEventListener("pointerdown", (event) => {
    taken = false;
    if (!event.isPrimary || event.button || !cellOf(event)) return;
    event.target.releasePointerCapture(event.pointerId); // Otherwise a finger stays, for the browser, on this cell.
    const over = new Set([cellOf(event)]);
    const press = new AbortController();
    const listen = (target, name, then) => target.addEventListener(name, then, { signal: press.signal });
    const end = () => {
      press.abort();
      for (const button of over) button.classList.remove("lab-over");
    };
    listen(table, "pointerover", (moved) => {
      if (cellOf(moved)) over.add(cellOf(moved));
      if (over.size > 1) for (const button of over) button.classList.add("lab-over");
    });
    listen(window, "pointercancel", end); // The browser scrolls instead.
    listen(window, "pointerup", () => {
      end();
      taken = over.size > 1;
      if (taken) take([...over]);
    });
  });
  // A press that ends where it began is also a click, which would undo it there. A key's click has no detail.
  table.addEventListener("click", (event) => {
    if (taken && event.detail) event.stopPropagation();
  }, true);
}
