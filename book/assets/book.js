// What scrolls sideways takes the focus, so that the keyboard can scroll it.
function letScrollersTakeFocus() {
  for (const element of document.querySelectorAll("article :is(pre, table, .formula, .cell_output, .output)")) {
    if (element.scrollWidth > element.clientWidth) element.tabIndex = 0;
    else element.removeAttribute("tabindex");
  }
}
letScrollersTakeFocus();
window.addEventListener("load", letScrollersTakeFocus);
window.addEventListener("resize", letScrollersTakeFocus);
document.addEventListener("toggle", letScrollersTakeFocus, true);

// On paper every fold is open.
const opened = [];
window.addEventListener("beforeprint", () => {
  opened.push(...document.querySelectorAll("details:not([open])"));
  for (const fold of opened) fold.open = true;
});
window.addEventListener("afterprint", () => {
  for (const fold of opened.splice(0)) fold.open = false;
});
