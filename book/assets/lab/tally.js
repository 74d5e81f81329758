// What each carried cell moves by itself, their sum, and what they move together, beside what many pairs gave.

import { GAP, make, percent, signed, table } from "./dom.js";
import { percentile, storedAt } from "./stored.js";

const NOTE =
  `What you carry, one at a time and together, in percent of ${GAP}. The mean of many pairs has its 95\u00a0% interval ` +
  "and is for “Enough here?”; a percentile says how many of these pairs this one exceeds.";
const HEADING = ["Carried", "Enough here?", "Needed here?", "Mean of many pairs"];

/** The mean of many pairs with its interval, and the percentile of this pair's share among them. */
function beside(stored, share) {
  if (!stored) return "not measured";
  const { mean, low, high, pairs, deciles } = stored;
  const interval = low === null ? "" : ` (${signed(low, 1)} to ${signed(high, 1)})`;
  return `${percent(mean, 1)}${interval}, ${pairs} pairs; this one: percentile ${percentile(share, deciles)}`;
}

/**
 * A note and a table for `rows` of {site, shares: {denoise, noise}} and the shares of all `together`, in percent.
 * `remove(site)` is called for a site that is carried no more.
 */
export async function drawTally(url, scene, rows, together, remove) {
  const body = [];
  for (const { site, shares } of rows) {
    const stored = beside(await storedAt(url, scene, site), shares.denoise);
    const button = make("button", { type: "button", title: "Carry this no more", onclick: () => remove(site) },
      site.title, make("span", { "aria-hidden": "true" }, " ×"));
    body.push([button, percent(shares.denoise), percent(shares.noise), stored]);
  }
  if (rows.length > 1) {
    const sum = (name) => rows.reduce((all, { shares }) => all + shares[name], 0);
    body.push(["Sum of the single ones", percent(sum("denoise")), percent(sum("noise")), ""]);
    body.push(["Carried together", percent(together.denoise), percent(together.noise), ""]);
  }
  return [make("p", { className: "lab-legend" }, NOTE), table("What you carry", HEADING, body)];
}
