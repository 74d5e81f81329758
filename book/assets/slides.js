// reveal.js shows the slides: S opens the speaker's notes, ?print-pdf in the address lays all slides out for paper.
Reveal.initialize({
  hash: true,
  slideNumber: "c/t",
  transition: "none",
  width: 1280,
  height: 720,
  margin: 0.04,
  showNotes: new URLSearchParams(location.search).has("notes") ? "separate-page" : false,
  plugins: [RevealNotes],
});
