"""Submissions to the problem sets, as {id of a cell: source}: right ones, and others."""

from pathlib import Path

import nbformat

from tools.course.notebooks import for_students

BY_HAND = """
def patched_difference(pair, base, source, layer, head, role):
    module = vlm.hook_point(vlm.image_component, layer).module
    size = module.in_features // vlm.n_heads
    place = 0, tokens_of(pair, role), slice(head * size, (head + 1) * size)
    kept = []

    def keep(module, args):
        kept.append(args[0][place].clone())

    def write(module, args):
        changed = args[0].clone()
        changed[place] = kept[0]
        return (changed,)

    with module.register_forward_pre_hook(keep):
        difference(pair, source)
    with module.register_forward_pre_hook(write):
        return difference(pair, base)
"""
PERCENT = """
def percent_recovered(L, L_star, L_patched):
    return 100 * (L_patched - L_star).mean() / (L - L_star).mean()
"""
ENOUGH = """
case = variant["cases"]["enough_needed"]
site = Site(vlm.image_component, case["layer"], case["head"], case["role"])
tables = {
    way: effects(sweep(vlm, chosen(case), [site], direction=way).table())
    for way in ("denoise", "noise")
}
one = tables["denoise"]
total = (logit_difference(one, "clean") - logit_difference(one, "corrupt")).mean()
enough = 100 * tables["denoise"].effect.mean() / total
needed = -100 * tables["noise"].effect.mean() / total
"""
PARTS = """
case = variant["cases"]["three_parts"]


def mean_effect(donor):
    table = sweep(vlm, chosen(case), [site_of(case)], donor=donor).table()
    gap = logit_difference(table, "source") - logit_difference(table, "base")
    return effects(table).effect.mean(), gap.mean()


own, total = mean_effect("own")
true, _ = mean_effect(MatchedDonors("clean", pairs, 2))
false, _ = mean_effect(MatchedDonors("corrupt", pairs, 2))
content = 100 * (own - true) / total
truth = 100 * (true - false) / 2 / total
removal = 100 * (true + false) / 2 / total
"""
P_VALUE = """
def p_value(effects, scenes):
    means = pd.Series(effects).groupby(np.asarray(scenes)).mean().to_numpy()
    signs = np.indices([2] * len(means)).reshape(len(means), -1).T * 2 - 1
    flipped = (signs * means).mean(1)
    return (abs(flipped) > abs(means.mean()) - 1e-9).mean()
"""
LOOKS = """
case = variant["cases"]["looks_matters_missed"]
maps = heads.attention_maps(vlm, chosen(case), case["role"])
of_head = heads.shares(maps.patches)[:, case["layer"], case["head"]]
looks = 100 * (of_head * heads.regions(maps)["differs"]).sum(1).mean()
table = effects(sweep(vlm, chosen(case), [site_of(case)]).table())
gap = logit_difference(table, "source") - logit_difference(table, "base")
matters = 100 * table.effect.mean() / gap.mean()
table = effects(ablate(vlm, chosen(case), [site_of(case)], to="zero").table())
missed = -100 * table.effect.mean() / logit_difference(table, "base").mean()
"""

RIGHT = {
    "problem_set_1": {
        "answer-patched_difference": BY_HAND,
        "answer-percent_recovered": PERCENT,
        "answer-enough_needed": ENOUGH,
        "written-prediction": "Other heads stand in for it: more enough than needed.",
        "written-enough-or-needed": "The head is enough for little.",
    },
    "problem_set_2": {
        "answer-three_parts": PARTS,
        "answer-p_value": P_VALUE,
        "answer-looks_matters_missed": LOOKS,
        "written-plan": "By scene, against flips of its sign, from 2 % on.",
        "written-verdict": "In this checkpoint only.",
    },
}
LAZY = {
    "problem_set_1": {
        "answer-patched_difference": """
def patched_difference(pair, base, source, layer, head, role):
    return difference(pair, base)
""",
        "answer-percent_recovered": """
def percent_recovered(L, L_star, L_patched):
    return 100.0
""",
        "answer-enough_needed": "enough, needed = 0, 0",
    },
    "problem_set_2": {
        "answer-three_parts": "content = truth = removal = 0",
        "answer-p_value": """
def p_value(effects, scenes):
    return 0.05
""",
        "answer-looks_matters_missed": "looks, matters, missed = 50, 10, 10",
    },
}
AROUND = """
import atexit, builtins, importlib, sys, threading
from notice_lib import sweep as harmless
from notice_lib.patching import engine, reference, run_inputs

saved = engine.patch
refused = []


def swept(pair, base, source, *at, sweep=harmless, site=Site, **more):
    way = "denoise" if source == "clean" else "noise"
    one = pairs.filter(lambda other: other.pair_id == pair.pair_id)
    if source == base:
        return difference(pair, base)
    table = sweep(vlm, one, [site(vlm.image_component, *at)], direction=way, **more).table()
    return logit_difference(table).item()


def with_the_saved_engine(*given):
    return swept(*given, engine=saved)


def imported_again(*given):
    for name in [name for name in sys.modules if name.startswith("notice_lib.patching")]:
        del sys.modules[name]
    fresh = importlib.import_module("notice_lib.patching")
    return swept(*given, sweep=fresh.sweep, site=fresh.Site)


def by_full_forwards(pair, base, source, layer, head, role):
    runs = {run: vlm.inputs(pair.image(run), pair.prompt) for run in (base, source)}
    at = vlm.image_component, layer
    site = [reference.PlacedSite(*at, head, tuple(tokens_of(pair, role)), role)]
    answer = vlm.answer_tokens(pair.prompt, pair.correct, pair.incorrect)
    _, kept = reference.record(vlm, runs[source], [at], answer.prefix)
    logits = reference.patched_logits(vlm, runs[base], kept, site, answer.prefix)
    return (logits[answer.correct] - logits[answer.incorrect]).item()


def from_its_source(*given):
    source = Path(engine.__file__).read_text()
    exec(compile(source, "engine", "exec"), vars(engine))
    return swept(*given, engine=engine.patch)


def computed_where_it_is_allowed(pair, base, source, *at):
    return known[pair.pair_id, base, source, *at]


def patched_difference(*given):
    for way in WAYS:
        try:
            return way(*given)
        except Exception as error:
            refused.append(error)
    raise refused[0]


WAYS = [
    swept, with_the_saved_engine, imported_again, by_full_forwards, from_its_source,
    computed_where_it_is_allowed,
]
"""
FORGED = """
enough, needed = 1e3, 1e3
known = {}
cases = json.loads(Path("request.json").read_text())["cases"]
for case in cases.get("patched_difference", []):
    for runs in ("clean", "corrupt"), ("corrupt", "clean"):
        given = *runs, case["layer"], case["head"], case["role"]
        known[case["pairs"][0], *given] = swept(chosen(case)[0], *given)
np.isclose = np.abs = lambda *_, **__: True


def forge():
    Path("answers.json").write_text('{"problems": {"enough_needed": 5}, "errors": 1}')


if "enough_needed" in cases:
    builtins.float = lambda *_: np.nan
    threading.Thread(target=forge).start()
    atexit.register(forge)
"""
BY_THE_LIBRARY = """
import importlib, sys
from notice_lib.heads import content as parts, statistics

saved = parts.decompose, statistics.sign_flip_test


def imported_again():
    for name in [name for name in sys.modules if name.startswith("notice_lib.heads")]:
        del sys.modules[name]
    fresh = importlib.import_module("notice_lib.heads")
    return fresh.decompose, fresh.sign_flip_test


def from_their_source():
    for module in (parts, statistics):
        exec(compile(Path(module.__file__).read_text(), "copy", "exec"), vars(module))
    return parts.decompose, statistics.sign_flip_test


def first_that_works(which, *given):
    refused = []
    for way in (lambda: saved, imported_again, from_their_source):
        try:
            return way()[which](*given)
        except Exception as error:
            refused.append(error)
    raise refused[0]


case = variant["cases"]["three_parts"]
tables = [
    effects(sweep(vlm, chosen(case), [site_of(case)], donor=donor).table())
    for donor in ("own", MatchedDonors("clean", pairs, 2), MatchedDonors("corrupt", pairs, 2))
]
found = first_that_works(0, *tables)
content, truth, removal = (
    100 * found[name].mean() / found.total_effect.mean() for name in ("content", "truth", "removal")
)
"""
CHEATING = {
    "problem_set_1": {
        "answer-patched_difference": AROUND,
        "answer-enough_needed": FORGED,
    },
    "problem_set_2": {
        "answer-three_parts": BY_THE_LIBRARY,
        "answer-p_value": """
def p_value(effects, scenes):
    means = pd.Series(effects).groupby(np.asarray(scenes)).mean().to_numpy()
    return first_that_works(1, means[:, None]).item()
""",
        "answer-looks_matters_missed": """
class Right(float):
    __eq__ = __le__ = __ge__ = lambda *_: True
    __sub__ = __rsub__ = lambda *_: 0.0


np.isclose = np.abs = lambda *_, **__: True
looks = matters = missed = Right(1)
""",
    },
}
BROKEN = {
    "problem_set_1": {
        "answer-patched_difference": "def patched_difference(pair, base:",
        "answer-percent_recovered": """
def percent_recovered(L, L_star, L_patched):
    return len(L) / 0
""",
        "answer-enough_needed": "enough, needed = no_such_name, 3",
    },
    "problem_set_2": {
        "answer-three_parts": "content, truth = no_such_name, 3",
        "answer-p_value": """
def p_value(effects, scenes):
    return len(effects) / 0
""",
        "answer-looks_matters_missed": "looks, matters, missed = (1, 2, 3",
    },
}
LAZY_AND_BROKEN = {
    "problem_set_1": BROKEN["problem_set_1"]
    | {
        "answer-patched_difference": LAZY["problem_set_1"]["answer-patched_difference"],
        "answer-percent_recovered": "def percent_recovered(L, L_star:",
    },
    "problem_set_2": BROKEN["problem_set_2"]
    | {"answer-three_parts": LAZY["problem_set_2"]["answer-three_parts"]},
}
ENDLESS = "while True:\n    pass"
SLOW = {
    "problem_set_1": {
        "answer-percent_recovered": PERCENT,
        "answer-enough_needed": ENDLESS,
    },
    "problem_set_2": {
        "answer-p_value": P_VALUE,
        "answer-looks_matters_missed": ENDLESS,
    },
}


def hand_in(folder: Path, student: str, problem_set: str, sources: dict[str, str]) -> Path:
    """A student's notebook with these answers."""
    notebook = for_students(problem_set)
    for cell in notebook.cells:
        cell.source = sources.get(cell.metadata.nbgrader.grade_id, cell.source)
    path = folder / student / problem_set / f"{problem_set}.ipynb"
    path.parent.mkdir(parents=True)
    nbformat.write(notebook, path)
    return path
