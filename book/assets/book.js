// The widgets' JavaScript speaks to MathJax 2, the pages have MathJax 3: pass its one call on.
window.addEventListener("DOMContentLoaded", () => {
  if (window.MathJax?.typesetPromise || window.MathJax?.startup) {
    window.MathJax.Hub = {
      Queue: ([, , element]) => window.MathJax.startup.promise.then(() => window.MathJax.typesetPromise([element])),
    };
  }
});
