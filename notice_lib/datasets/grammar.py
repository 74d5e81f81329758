"""Two-option questions in plain English from subject-verb-object triplets, offline.

A triplet says "girl, stand, grass": neither how the verb is inflected nor which preposition links
it to the object. The participle comes from LemmInflect's dictionary. The preposition comes, in
this order,

1. from the row's sentence, where verb and object are found in it ("... standing on the grass");
2. from the lists of verbs and places below: "stand" takes a place, and one stands "on" the grass,
   "in" the water, and "near" what is not a known place;
3. or there is none, as after a verb that takes an object: "hold", and any verb not listed.

In the 28 askable rows of the tests' invented table that is 26, 2 and 0 times; in published rows,
whose sentences are captions from the web, the lists will be needed more often.

The article is "the" throughout, whatever the sentence has, so that both options look the same and
nobody has to know which nouns can be counted; games and meals have none ("playing football").
"""

import re
from functools import lru_cache
from typing import NamedTuple

import lemminflect

from ..errors import NoticeError

SLOTS = ("subject", "verb", "object")


class Triplet(NamedTuple):
    """Who does what to what; the verb in any form."""

    subject: str
    verb: str
    object: str

    def option(self, slot: str) -> str:
        """The slot's word as a question offers it: verbs as participles, "stand" as "standing"."""
        word = getattr(self, slot)
        return participle(word) if slot == "verb" else word


def grammatical_question(
    triplets: tuple[Triplet, Triplet], sentence: str, slot: str, first: str, second: str
) -> str:
    """A question that offers `first`, then `second`, of the slot in which two triplets differ.

    One is `triplets[0].option(slot)`, true of the positive image, the other is `triplets[1]`'s::

        subject  Is the dog or the goat pulling the car?
        verb     Is the girl standing or sitting on the grass?
                 Is the girl sitting on or holding the dog?      (the verbs link differently)
        object   Is the girl standing on the grass or the sand?
                 Is the girl standing on the grass or in the water?
                 Is the girl riding the horse or riding on the beach?

    The sentence tells of the positive triplet only. The negative one shares its preposition where
    that fits the verb and the place, and has its own usual one elsewhere.

    Args:
        triplets: the positive and the negative one, in lower case.
        sentence: the positive image's caption; may be empty.

    Raises:
        NoticeError: a verb names a state ("have"), of which nobody asks "is the girl having".

    Source: the templates of the published code, preprocessing/1_svo, which left the grammar to a
    paid language model.
    """
    positive, negative = triplets
    for triplet in triplets:
        if _key(triplet.verb) in _STATES:
            raise NoticeError(f"The verb {triplet.verb!r} makes no question with 'is ...ing'.")
    links = _links(positive, negative, sentence, slot)
    if first != positive.option(slot):
        links = links[::-1]
    verb = participle(positive.verb)
    asked = first if slot == "subject" else positive.subject
    words = ["Are" if _is_plural(asked) else "Is", _the(asked)]
    if slot == "subject":
        words += ["or", _the(second), verb, links[0], _the(positive.object)]
    elif slot == "verb":
        shared = links[0] == links[1]
        words += [first, "" if shared else links[0], "or", second, links[1], _the(positive.object)]
    elif links[0] == links[1]:
        words += [verb, links[0], _the(first), "or", _the(second)]
    else:
        again = verb if "" in links else ""
        words += [verb, links[0], _the(first), "or", again, links[1], _the(second)]
    return " ".join(word for word in words if word) + "?"


@lru_cache(4096)
def participle(verb: str) -> str:
    """The present participle of a verb in any form; of "pick up", "picking up"."""
    head, *rest = verb.split() or [""]
    known = lemminflect.getInflection(_base(head), "VBG")
    return " ".join([known[0] if known else f"{head}ing", *rest])


def sentence_link(sentence: str, verb: str, thing: str) -> str | None:
    """The preposition between a verb and its object in a sentence: "" where there is none.

    None where the sentence does not tell: one of the two is not in it, or something else stands
    between them ("holds a phone in his hand" says nothing of "hold, hand").
    """
    text = " ".join(_TOKEN.findall(sentence.lower()))
    forms = f"(?:{_verb_forms(verb)}) ((?:[^ ]+ ){{0,8}}?)(?:{_noun_forms(thing)})"
    match = re.search(f"(?<![^ ]){forms}(?![^ ])", text)
    if not match:
        return None
    between = match[1]
    *_, last = None, *_PREPOSITION.finditer(between)
    before, after = (between[: last.start()], between[last.end() :]) if last else ("", between)
    if _BREAK.search(after) or len(after.split()) > 4:
        return None
    if not last:
        return ""
    adjacent = all(word in _PARTICLES or word.endswith("ly") for word in before.split())
    of_place = last[0] in _STATIC and (_key(verb) in _PLACED | _EITHER or thing in _PLACES)
    return last[0] if adjacent or of_place else None


def _links(positive: Triplet, negative: Triplet, sentence: str, slot: str) -> tuple[str, str]:
    """The prepositions after the two triplets' verbs."""
    link = sentence_link(sentence, positive.verb, positive.object)
    if link is None:
        link = _usual_links(positive.verb, positive.object)[0]
    others = _usual_links(negative.verb, negative.object)
    if slot == "verb":
        shared = link in _STATIC and _takes_place(negative.verb, negative.object)
    elif slot == "object" and link in ("on", "in", "at", "near", ""):
        places = [_is_place(positive), _is_place(negative)]
        if all(places) and link:
            others = _PLACES[negative.object]
            shared = link == "near" or link in others
        else:
            shared = not any(places) or _key(positive.verb) not in _PLACED | _EITHER
    else:
        shared = True
    return link, link if shared else others[0]


def _usual_links(verb: str, thing: str) -> tuple[str, ...]:
    """What links a verb to a thing, likeliest first."""
    key = _key(verb)
    if (key, thing) in _PHRASES:
        return (_PHRASES[key, thing],)
    if key in _OWN:
        return (_OWN[key],)
    if _takes_place(verb, thing):
        return _PLACES.get(thing) or (_NEAR.get(key, "near"),)
    return ("",)


def _takes_place(verb: str, thing: str) -> bool:
    """Whether the verb says where: "riding", of a beach, not of a horse."""
    key = _key(verb)
    return (key, thing) not in _PHRASES and (
        key in _PLACED or (key in _EITHER and thing in _PLACES)
    )


def _is_place(triplet: Triplet) -> bool:
    thing = triplet.object
    return thing in _PLACES and (_key(triplet.verb), thing) not in _PHRASES


def _the(noun: str) -> str:
    return noun if noun in _BARE else f"the {noun}"


@lru_cache(4096)
def _is_plural(noun: str) -> bool:
    """Whether the verb must be "are"; nouns that are the same in both numbers count as one."""
    last = noun.split()[-1]
    singular = lemminflect.getLemma(last, "NOUN", lemmatize_oov=False)
    return last in _PLURALS or (bool(singular) and last not in singular)


@lru_cache(4096)
def _base(verb: str) -> str:
    """The infinitive of one word; a word that is an infinitive stays ("lay", "felt")."""
    if lemminflect.getInflection(verb, "VBG", inflect_oov=False):
        return verb
    return (lemminflect.getLemma(verb, "VERB") or (verb,))[0]


def _key(verb: str) -> str:
    """A verb as the lists below have it."""
    head, *rest = verb.split() or [""]
    return " ".join([_base(head), *rest])


@lru_cache(4096)
def _verb_forms(verb: str) -> str:
    """A pattern of all forms of a verb."""
    head, *rest = verb.split() or [""]
    forms = {head, _base(head), participle(verb).split()[0]}
    for inflected in lemminflect.getAllInflections(_base(head), "VERB").values():
        forms.update(inflected)
    return "|".join(re.escape(" ".join([form, *rest])) for form in sorted(forms))


@lru_cache(4096)
def _noun_forms(noun: str) -> str:
    """A pattern of a noun and its plurals."""
    *rest, last = noun.split()
    forms = {last, *lemminflect.getInflection(last, "NNS")}
    return "|".join(re.escape(" ".join([*rest, form])) for form in sorted(forms))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_TOKEN = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*|[^\w\s]")
_BREAK = re.compile(r"(?<![^ ])(?:[,.;:!?]|and|or|while|who|that|which|to)(?![^ ])")
_PREPOSITION = re.compile(
    r"(?<![^ ])(?:in front of|on top of|next to|out of|close to"
    r"|to(?= (?:the|an?|his|her|their|its|my|our) )"
    r"|aboard|about|above|across|against|along|among|around|at|behind|below|beneath|beside|between"
    r"|by|down|for|from|in|inside|into|near|off|on|onto|outside|over|past|through|toward|towards"
    r"|under|underneath|up|upon|with)(?![^ ])"
)
_PARTICLES = _words("down up out back together alone outside still away over barefoot")
_STATIC = _words("on in at near by beside behind under inside outside around among")
_STATIC |= {"next to", "in front of"}
"""Prepositions that say where, whatever is done there."""

_STATES = _words("be have own contain belong know seem want need like love hate")
"""Verbs of which "is the girl ...ing" is not English."""

_PLACED = _words(
    "stand sit lie sleep kneel crouch squat rest relax pose walk run jog jump hop leap swim skate "
    "ski surf hike stroll travel live stay gather float fall perch exercise meditate sunbathe "
    "crawl skateboard snowboard slide dive march wander compete smile laugh cry talk chat work "
    "camp graze bathe lounge die"
)
"""Verbs that say where, not what."""

_NEAR = {
    "jump": "over", "leap": "over", "hop": "over", "talk": "to", "chat": "with", "smile": "at",
    "laugh": "at", "work": "with", "run": "with",
}  # fmt: skip
"""What links such a verb to a thing that is not a place; for other verbs it is "near"."""

_EITHER = _words(
    "ride drive play read sing write study fish sail cycle eat drink row dance fly hang perform "
    "stretch roll balance train land race"
)
"""Verbs that take a thing ("ride the horse") or a place ("ride on the beach")."""

_OWN = {
    "look": "at", "stare": "at", "gaze": "at", "point": "at", "wave": "at", "listen": "to",
    "speak": "to", "wait": "for", "lean": "against", "bark": "at", "search": "for",
}  # fmt: skip
"""Verbs with a preposition of their own."""

_PHRASES = {
    **{("ride", thing): "" for thing in _words("bicycle bike horse motorcycle skateboard wave")},
    **{("drive", thing): "" for thing in _words("boat car motorcycle")},
    ("walk", "dog"): "", ("run", "race"): "", ("jump", "rope"): "", ("row", "boat"): "",
    ("sail", "boat"): "", ("eat", "grass"): "", ("eat", "snow"): "", ("drink", "water"): "",
    ("talk", "phone"): "on",
}  # fmt: skip
"""Where a verb and a thing do what the lists would not say."""

_PLACES = {
    place: tuple(links.split())
    for links, places in {
        "on at": "beach shore seashore",
        "on": "bed bench bicycle bike blanket branch bridge carpet chair cliff coast couch court "
        "deck dock floor ground hill hillside horse ice lawn log mat motorcycle mountain "
        "pavement pier platform railing rock roof rug runway sand sidewalk skateboard slope "
        "sofa stage staircase stairs step steps stone stool surfboard swing track trail wave",
        "on in": "boat grass path road street",
        "in on": "field mud snow",
        "in": "air bathroom bedroom cafe car church city classroom desert forest garage garden gym "
        "hall hammock kitchen lake library meadow ocean office park pond pool rain restaurant "
        "river room sea shop sky store studio sunlight town village water wood woods yard",
        "at": "airport bar concert counter desk market party school stadium station table zoo",
    }.items()
    for place in places.split()
}
"""{place: its prepositions, likeliest first}."""

_BARE = _words(
    "badminton baseball basketball cricket football golf hockey rugby soccer tennis volleyball "
    "chess poker yoga karate judo music breakfast lunch dinner"
)
"""Nouns without an article."""

_PLURALS = _words(
    "people police cattle clothes fireworks glasses goggles headphones jeans pants scissors "
    "shorts sunglasses trousers"
)
"""Plurals that the dictionary also knows as singulars, or not at all."""
