"""Measure how long the patch lab takes in Chromium, for the page that states it.

    python tools/time_lab.py

It prints medians over rounds, each in a new browser session, and writes book/assets/lab/times.json.
All files come from this machine. Measure while nothing else runs on it.
"""

import json
import os
import sys
from pathlib import Path
from statistics import median

from playwright.sync_api import Browser

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tools.chromium import chromium  # noqa: E402
from tools.serving import serve  # noqa: E402

ASSETS = ROOT / "book" / "assets"
LAB = ASSETS / "lab"
MODELS = ("blip-mini", "llava-mini")
ROUNDS = 5
FEWEST_IDLE = 1.0
"""Cores that must be idle."""

ROUND = """async ([address, name]) => {
    const { Client } = await import(address + "lab/client.js");
    const url = `${address}lab/${name}/manifest.json`;
    const { scenes: [scene], shape, per_head, effect_role } = await (await fetch(url)).json();
    const client = new Client();
    const grid = (rows, cell) => Array.from({ length: shape.layers * rows }, (_, i) =>
        cell(i % shape.layers, Math.floor(i / shape.layers)));
    const tokens = grid(scene.ids.length, (layer, token) =>
        ({ component: "layer_output", layer, token, head: null }));
    const heads = grid(shape.heads, (layer, head) =>
        ({ component: per_head.at(-1), layer, token: scene.roles.indexOf(effect_role), head }));

    const seconds = async (work) => {
        const started = performance.now();
        await work();
        return (performance.now() - started) / 1000;
    };
    const mapped = async (sites) => {
        for (const direction of ["denoise", "noise"]) {
            await client.patch(scene.id, direction, sites.map((site) => [site]));
        }
    };
    const start = await seconds(async () => {
        await client.load(url);
        await client.read(scene.id);
    });
    const runs = [];
    for (const site of tokens) {
        runs.push(await seconds(() => client.patch(scene.id, "denoise", [[site]])));
    }
    return {
        start, runs, layers: await seconds(() => mapped(tokens)), heads: await seconds(() => mapped(heads)),
        number: { layers: 2 * tokens.length, heads: 2 * heads.length },
    };
}"""  # noqa: E501


def measure(browser: Browser, name: str, rounds: int = ROUNDS) -> dict:
    """Medians in seconds.

    Returns:
        start: from Start to the first answer; run: a patched run, of all cells of the map of layer
        outputs; slowest: that of the cell that takes longest; layers, heads: the whole maps that
        the page shows, in both directions; number: how many runs these are.
    """
    found = []
    with serve(ASSETS) as address:
        for _ in range(rounds):
            with browser.new_context() as context:
                page = context.new_page()
                page.goto(address + "favicon.svg")
                found.append(page.evaluate(ROUND, [address, name]))
    whole = {part: median(one[part] for one in found) for part in ("start", "layers", "heads")}
    by_cell = [median(times) for times in zip(*(one["runs"] for one in found), strict=True)]
    alone = {"run": median(by_cell), "slowest": max(by_cell)}
    seconds = {part: float(f"{value:.2g}") for part, value in (whole | alone).items()}
    return seconds | {"number": found[0]["number"]}


def main() -> None:
    idle = os.cpu_count() - os.getloadavg()[0]
    if idle < FEWEST_IDLE:
        print(f"Of {os.cpu_count()} cores, {idle:.1f} are idle: the numbers will be too large.")
    with chromium() as browser:
        times = {"chromium": browser.version} | {name: measure(browser, name) for name in MODELS}
    text = json.dumps(times, indent=1)
    (LAB / "times.json").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
