// What the shape of the model alone makes true, and is therefore no finding.

function outputs(sites, layer) {
  return new Set(
    sites.filter((site) => site.component === "layer_output" && site.layer === layer && site.head === null)
      .map((site) => site.token),
  );
}

/** The carried tokens of the last layer's outputs that the answer is read from directly. */
function readOut({ shape, read_out: where }, scene, sites) {
  const tokens = [...outputs(sites, shape.layers - 1)];
  return where === "all" ? tokens : tokens.filter((token) => token === scene.ids.length - 1);
}

/** The layer whose outputs are carried at all tokens; undefined if there is none. */
function wholeLayer({ shape }, scene, sites) {
  const layers = Array.from({ length: shape.layers }, (_, layer) => layer);
  return layers.find((layer) => outputs(sites, layer).size === scene.ids.length);
}

/** A sentence for carried sites that restore by construction, wholly or in part; "" for all others. */
export function construction(manifest, scene, sites) {
  const direct = readOut(manifest, scene, sites).length;
  const needed = manifest.read_out === "all" ? scene.ids.length : 1;
  // Where the image enters at the first layer only, all outputs of any layer hold all that follows.
  const whole = manifest.read_out === "last" && wholeLayer(manifest, scene, sites) !== undefined;
  if (direct === needed || whole) {
    return "Restores by construction: the answer is read from what you carry and from nothing else, so this gives " +
      "the other run's answer whatever the model has learned. It is no finding.";
  }
  return direct ? "You carry outputs of the last layer, from which the answer is read directly." : "";
}

/** Why these sites do not count in the challenge; "" if they do. */
export function barred(manifest, scene, sites) {
  if (readOut(manifest, scene, sites).length) return "the last layer's outputs are what the answer is read from";
  const layer = wholeLayer(manifest, scene, sites);
  return layer === undefined ? "" : `layer ${layer} is carried whole, at all tokens`;
}
