// What the shape of the model alone makes true, and is therefore no finding; and what does not count in the challenge.

const MOST = 0.5; // More of a layer's cells than this count as the whole layer.

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

function layersOf({ shape }) {
  return Array.from({ length: shape.layers }, (_, layer) => layer);
}

/** Whether a layer's outputs are carried wherever the runs differ: nowhere before the image, where that is a token. */
function isWhole({ image }, scene, sites, layer) {
  const carried = outputs(sites, layer);
  return scene.ids.every((_, token) => token < (image?.start ?? 0) || carried.has(token));
}

/** The first layer of which more than half of the outputs' cells are carried; undefined if there is none. */
function mostOf(manifest, scene, sites) {
  return layersOf(manifest).find((layer) => outputs(sites, layer).size > MOST * scene.ids.length);
}

/** Whether the cell is carried that holds all tokens of the image. */
function carriesImage(scene, sites) {
  return sites.some((site) => scene.roles[site.token] === "image");
}

/** A sentence for carried sites that restore by construction, wholly or in part, or nearly do; "" for all others. */
export function construction(manifest, scene, sites) {
  const direct = readOut(manifest, scene, sites).length;
  const needed = manifest.read_out === "all" ? scene.ids.length : 1;
  // Where the image enters at the first layer only, all outputs of any layer hold all that follows.
  const whole = manifest.read_out === "last" &&
    layersOf(manifest).some((layer) => isWhole(manifest, scene, sites, layer));
  if (direct === needed || whole) {
    return "Restores by construction: the answer is read from what you carry and from nothing else, so this gives " +
      "the other run's answer whatever the model has learned. It is no finding.";
  }
  if (direct) return "You carry outputs of the last layer, from which the answer is read directly.";
  return largely(manifest, scene, sites);
}

/** A sentence for what copies much of a run at once, though not by construction all of the answer; "" for all others. */
function largely(manifest, scene, sites) {
  const layer = mostOf(manifest, scene, sites);
  if (layer !== undefined) {
    const part = isWhole(manifest, scene, sites, layer) ? "all" : "most";
    const read = manifest.read_out === "all" ? "the picture again" : "the cells that you left, too";
    return `You carry ${part} of layer ${layer}. That does not restore by construction, since later layers read ` +
      `${read}; but it copies most of a run at once, so the challenge bars it.`;
  }
  if (!carriesImage(scene, sites)) return "";
  return `The image's cell holds all its ${manifest.image.tokens} tokens, so the challenge bars it.`;
}

/** Why these sites do not count in the challenge; "" if they do. */
export function barred(manifest, scene, sites) {
  if (readOut(manifest, scene, sites).length) return "the last layer's outputs are what the answer is read from";
  const layer = mostOf(manifest, scene, sites);
  if (layer !== undefined) {
    return `${outputs(sites, layer).size} of the ${scene.ids.length} cells of layer ${layer} are more than half, ` +
      "which counts as the whole layer";
  }
  return carriesImage(scene, sites) ? `the image's cell holds all its ${manifest.image.tokens} tokens` : "";
}
