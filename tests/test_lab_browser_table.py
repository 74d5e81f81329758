"""Below the grids of Carry, in Chromium: the table, the guess, the challenge and the card."""

import re

import numpy as np
import pytest
from browsing import press, tab_to
from lab_page import (
    DIRECTIONS,
    MINUS,
    MODELS,
    alone,
    check_whole,
    guess_by_keyboard,
    manifest,
    model,
    pairs,
    patched,
    read,
    settle,
    start,
)

from notice_lib import Circuit, Site, sweep
from notice_lib.pairs import PairSet
from notice_lib.patching import MatchedDonors

MANIFEST = manifest("blip-mini")
NBSP = "\N{NO-BREAK SPACE}"


@pytest.fixture
def page(browser, tmp_path):
    with alone(browser, tmp_path) as page:
        yield page


def carry_in(page, state):
    start(page, "carry", f"#{state}")
    return page.locator(".lab-carried tbody tr").all_inner_texts()


def numbers(text):
    """The percentages of a line."""
    return [int(n.replace(MINUS, "-")) for n in re.findall(rf"([+{MINUS}]?\d+)\s%", text)]


@pytest.mark.parametrize("name", MODELS)
def test_the_table_says_where_this_pair_lies_among_many(page, name):
    """Of a whole layer, and of the head with the largest mean, at the token of the heads."""
    role, scene = manifest(name)["effect_role"], manifest(name)["scenes"][0]
    stored, token = read(f"{name}/stored/states-colour.json"), scene["roles"].index(role)
    heads = [place for place in stored if re.fullmatch(rf"\w+\.{role}\.\d\.\d", place)]
    sites = {f"layer_output.{role}.2": Site("layer_output", 2, None, role)}
    best = max(heads, key=lambda place: stored[place][0])
    component, _, layer, head = best.split(".")
    sites[best] = Site(component, int(layer), int(head), role)
    keys = f"layer_output.2.{token}+{component}.{layer}.{token}.{head}"
    lines = carry_in(page, f"model={name}&pair={scene['id']}&carry={keys}")
    gap = scene["L"]["clean"] - scene["L"]["corrupt"]
    for line, (place, site) in zip(lines, sites.items(), strict=False):
        mean, low, high, n, *deciles = stored[place]
        interval = f"{signed(mean)}\N{NO-BREAK SPACE}% ({signed(low)} to {signed(high)})"
        said = re.search(rf"{re.escape(interval)}, {n} pairs; this one: percentile (\d+)", line)
        logits = patched(name, pairs()[scene["id"]], "denoise", [Circuit("one", (site,))])[0]
        share = 100 * (logits[0] - logits[1] - scene["L"]["corrupt"]) / gap
        rank = np.interp(share, deciles, np.linspace(0, 100, 11))
        assert int(said[1]) == pytest.approx(rank, abs=2)
        assert 0 < rank < 100


def test_the_table_has_the_sum_and_the_joint_effect(page):
    scene = MANIFEST["scenes"][0]
    token = scene["roles"].index("correct")
    keys = [f"layer_output.2.{token}", f"cross_attention.3.{token}.0"]
    first, second, total, together = carry_in(page, f"pair={scene['id']}&carry={'+'.join(keys)}")
    wanted = []
    for direction in DIRECTIONS:
        circuit = [Circuit("both", cells(keys))]
        logits = patched("blip-mini", pairs()[scene["id"]], direction, circuit)[0]
        base = scene["L"]["corrupt" if direction == "denoise" else "clean"]
        gap = scene["L"]["clean"] - scene["L"]["corrupt"]
        wanted.append(round(100 * (logits[0] - logits[1] - base) / gap))
    assert numbers(together) == wanted
    singles = [numbers(line)[:2] for line in (first, second)]
    assert numbers(total) == pytest.approx(np.sum(singles, axis=0), abs=1)
    check_whole(page)


def signed(value):
    return f"{MINUS if value < 0 else '+'}{abs(value):.1f}"


def cells(keys):
    """Sites of the library for the page's keys."""
    parts = [key.split(".") for key in keys]
    return tuple(
        Site(component, int(layer), int(head[0]) if head else None, int(token))
        for component, layer, token, *head in parts
    )


def outputs(layer, tokens):
    return "+".join(f"layer_output.{layer}.{token}" for token in tokens)


def challenged(page, name, keys):
    """What the page says of these cells, and what the challenge does."""
    scene = manifest(name)["scenes"][0]
    start(page, "carry", f"#model={name}&pair={scene['id']}&carry={keys}")
    said = page.locator(".lab-status").inner_text()
    standing = page.locator(".lab-challenge [role=status]").first.inner_text()
    assert page.locator(".lab-challenge button").is_enabled() == ("is back." in standing)
    return said, standing


def test_the_challenge_bars_the_read_out_and_most_of_a_layer(page):
    n, last = len(MANIFEST["scenes"][0]["ids"]), MANIFEST["shape"]["layers"] - 1
    again = "does not restore by construction, since later layers read the picture again"
    for keys, marked, reason in [
        (outputs(last, [0]), "from which the answer is read directly", "the last layer's outputs"),
        (outputs(2, range(n)), f"all of layer 2. That {again}", f"{n} of the {n} cells"),
        (outputs(2, range(n - 1)), f"most of layer 2. That {again}", f"{n - 1} of the {n}"),
        (
            outputs(2, range(n // 2 + 1)),
            "most of layer 2",
            f"{n // 2 + 1} of the {n} cells of layer 2 are more than",
        ),
    ]:
        said, standing = challenged(page, "blip-mini", keys)
        assert marked in said
        assert f"They do not count: {reason}" in standing
    said, standing = challenged(page, "blip-mini", outputs(2, range(n // 2)))
    assert said == "" and "do not count" not in standing


def test_the_challenge_bars_an_image_in_one_cell(page):
    """In LLaVA the tokens before the image are alike in both runs, so the others are the layer."""
    of = manifest("llava-mini")
    n, (at, tokens) = len(of["scenes"][0]["ids"]), of["image"].values()
    for keys, marked, reason in [
        (outputs(0, [at]), f"holds all its {tokens} tokens", "the image's cell holds all its"),
        (f"mlp.0.{at}", f"holds all its {tokens} tokens", "the image's cell holds all its"),
        (outputs(0, range(at, n)), "Restores by construction", "11 of the 15 cells"),
        (outputs(0, range(at + 1, n)), "later layers read the cells that you left", "10 of the 15"),
    ]:
        said, standing = challenged(page, "llava-mini", keys)
        assert marked in said
        assert f"They do not count: {reason}" in standing
    enough = page.locator(".lab-result").first.inner_text()
    assert "moved by +100" not in enough
    challenged(page, "llava-mini", outputs(0, range(at, n)))
    enough, needed = page.locator(".lab-result").all_inner_texts()[:2]
    assert f"+100{NBSP}%" in enough and f"{MINUS}100{NBSP}%" in needed


def test_the_challenge_is_scored_beyond_unrelated_donors(page):
    """Four outputs of a layer bring the answer back; the score is the library's."""
    scene = MANIFEST["scenes"][0]
    keys = outputs(4, (0, 4, 5, 6)).split("+")
    start(page, "carry", f"#pair={scene['id']}&carry={'+'.join(keys)}")
    tab_to(page, ".lab-challenge button")
    press(page, "Enter")
    page.wait_for_selector("text=Your score is")
    unseen = [one for one in read(f"blip-mini/unseen/{scene['group']}.json") if one["donors"]]
    lines = page.locator(".lab-challenge tbody tr").all_inner_texts()
    assert len(lines) == len(unseen)
    mean = np.mean([numbers(line) for line in lines], axis=0)
    said = page.locator(".lab-challenge [role=status]").all_inner_texts()[1]
    assert numbers(said) == pytest.approx([mean[2], mean[0], mean[1]], abs=1.01)
    one, circuit = unseen[0], [Circuit("all", cells(keys))]
    gap = one["L"]["clean"] - one["L"]["corrupt"]

    def share(logits):
        return 100 * (logits[0] - logits[1] - one["L"]["corrupt"]) / gap

    own = share(patched("blip-mini", pairs()[one["id"]], "denoise", circuit)[0])
    pool = PairSet(tuple(pairs()[name] for name in (one["id"], *one["donors"])))
    donors = MatchedDonors("clean", pool=pool, n=len(one["donors"]))
    table = sweep(model("blip-mini"), PairSet((pool[0],)), circuit, donor=donors).table()
    scores = table[["logit_correct", "logit_incorrect"]].to_numpy()
    unrelated = np.mean([share(logits) for logits in scores])
    assert numbers(lines[0]) == pytest.approx([own, unrelated, own - unrelated], abs=0.51)
    check_whole(page)


def test_a_guess_is_committed_before_the_map_and_judged_by_it(page):
    start(page, "carry")
    layers, tokens = MANIFEST["shape"]["layers"], MANIFEST["scenes"][0]["tokens"]
    assert set(page.locator(".lab-grid td button").all_inner_texts()) == {""}
    tab_to(page, ".lab-guess button")
    press(page, "Enter")  # Without a number nothing is committed.
    assert page.locator(".lab-guess").count() == 1
    guess_by_keyboard(page, row=tokens[4], layer="layer 1", flips="5")
    said = page.locator(".lab-controls + div").inner_text()
    shown = page.locator(".lab-panel:first-child .lab-grid td button").all_inner_texts()
    shares = [int(text.replace(MINUS, "-")) for text in shown]
    own = shares[4 * layers + 1]
    assert f"“{tokens[4]}” in layer 1, moves the answer by" in said
    assert numbers(said)[0] == own
    rank = int(re.search(r"rank (\d+) of", said)[1])
    assert sum(share > own for share in shares) < rank <= sum(share >= own for share in shares)
    assert rank == 1 or numbers(said)[1] == max(shares)
    # A cell flips the answer if it moves it beyond zero. The page's shares are rounded.
    gap, zero = (MANIFEST["scenes"][0]["L"][run] for run in ("clean", "corrupt"))
    zero *= -100 / (gap - zero)
    flips = re.search(r"You guessed that 5 flip .*; it is (\d+)|flip the answer is right", said)
    assert sum(share > zero + 0.5 for share in shares) <= int(flips[1] or 5)
    assert int(flips[1] or 5) <= sum(share > zero - 0.5 for share in shares)
    check_whole(page)


def test_the_card_carries_two_heads_with_the_effects_that_it_names(page):
    twins = MANIFEST["twins"]
    start(page, "carry")
    tab_to(page, ".lab-card button:nth-of-type(3)")
    press(page, "Enter")
    number = 2 * len(MANIFEST["scenes"][0]["ids"])
    page.wait_for_selector(f".lab-carried tbody tr:nth-child({number + 2})")
    settle(page, "carry")
    lines = page.locator(".lab-carried tbody tr").all_inner_texts()
    assert f"pair={twins['pair']}" in page.url
    assert len(lines) == number + 2
    assert numbers(lines[-1]) == pytest.approx([twins["enough"][2], -twins["needed"][2]], abs=0.6)


def test_the_card_carries_two_cells_that_are_each_enough_and_neither_needed(page):
    """As the search found them; the table's numbers are the library's."""
    named = MANIFEST["twin_cells"]
    (scene,) = (one for one in MANIFEST["scenes"] if one["id"] == named["pair"])
    keys = [f"layer_output.{layer}.{scene['roles'].index(role)}" for layer, role in named["cells"]]
    gap = scene["L"]["clean"] - scene["L"]["corrupt"]
    wanted, margins = [], []
    circuits = [Circuit(str(some), cells(some)) for some in ([keys[0]], [keys[1]], keys)]
    for direction in DIRECTIONS:
        logits = patched("blip-mini", pairs()[scene["id"]], direction, circuits)
        ends = logits[:, 0] - logits[:, 1]
        margins += ends[:2].tolist()
        base = scene["L"]["corrupt" if direction == "denoise" else "clean"]
        wanted.append(100 * (ends - base) / gap)
    margins.append(-ends[2])  # Both together, noised, flip the answer.
    assert min(margins) == pytest.approx(named["margin"], abs=0.001) and min(margins) > 0
    start(page, "carry")
    tab_to(page, ".lab-card > div:last-child button:nth-of-type(3)")
    press(page, "Enter")
    page.wait_for_selector(".lab-carried tbody tr:nth-child(4)")
    settle(page, "carry")
    assert f"pair={scene['id']}&view=layer_output" in page.url
    assert page.url.endswith(f"carry={'+'.join(keys)}")
    lines = page.locator(".lab-carried tbody tr").all_inner_texts()
    shown = [numbers(lines[i])[:2] for i in (0, 1, 3)]  # the third line is their sum
    assert shown == [pytest.approx(both, abs=0.51) for both in zip(*wanted, strict=True)]
    check_whole(page)


def test_where_no_two_cells_are_each_enough_the_card_says_so(page):
    start(page, "carry", "#model=llava-mini")
    assert manifest("llava-mini")["twin_cells"] is None
    card = page.locator(".lab-card")
    assert "Nor do two cells of one layer's outputs" in card.inner_text()
    assert card.locator("button").count() == 3
