// How far a patch moves the answer.

/** In percent of L - L*, from the L of its base run, "clean" or "corrupt". `runs` has the scores of both unpatched runs. */
export function moved(runs, base, score) {
  return (100 * (score.L - runs[base].L)) / (runs.clean.L - runs.corrupt.L);
}
