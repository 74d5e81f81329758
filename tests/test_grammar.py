"""Questions from triplets, against what a teacher of English would accept."""

import csv
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from notice_lib import NoticeError, load_pairs
from notice_lib.datasets.grammar import (
    _PLACES,
    SLOTS,
    Triplet,
    grammatical_question,
    participle,
    sentence_link,
)
from notice_lib.pairs.prompts import option_spans

FIXTURE = Path(__file__).parent / "fixtures" / "svo_probes.csv"

BARE = """
subject | goat,pull,car | dog | Is the goat or the dog pulling the car?
subject | girl,stand,grass | dog | Is the girl or the dog standing on the grass?
subject | horse,jump,fence | dog | Is the horse or the dog jumping over the fence?
subject | polar bear,swim,water | seal | Is the polar bear or the seal swimming in the water?
subject | woman,wait,bus | man | Is the woman or the man waiting for the bus?
subject | people,stand,beach | man | Are the people or the man standing on the beach?
subject | man,stand,beach | people | Is the man or the people standing on the beach?
subject | police,ride,horse | men | Are the police or the men riding the horse?
subject | sheep,graze,meadow | cow | Is the sheep or the cow grazing in the meadow?
subject | man,work,computer | woman | Is the man or the woman working with the computer?
subject | bus,cross,bridge | tram | Is the bus or the tram crossing the bridge?
subject | man,play,tennis | woman | Is the man or the woman playing tennis?
subject | cowboy,lasso,calf | cowgirl | Is the cowboy or the cowgirl lassoing the calf?
subject | café owner,sit,table | guest | Is the café owner or the guest sitting at the table?
verb | girl,stand,grass | sit | Is the girl standing or sitting on the grass?
verb | girl,hold,dog | look | Is the girl holding or looking at the dog?
verb | girl,sit,dog | hold | Is the girl sitting near or holding the dog?
verb | dog,run,snow | lie | Is the dog running or lying in the snow?
verb | boy,kick,ball | throw | Is the boy kicking or throwing the ball?
verb | man,tie,boat | row | Is the man tying or rowing the boat?
verb | man,pick up,box | put down | Is the man picking up or putting down the box?
verb | cow,eat,grass | lie | Is the cow eating or lying on the grass?
verb | man,talk,phone | hold | Is the man talking on or holding the phone?
verb | man,eat,lunch | cook | Is the man eating or cooking lunch?
verb | children,play,beach | run | Are the children playing or running on the beach?
verb | couple,walk,beach | dance | Is the couple walking or dancing on the beach?
verb | woman,dance,stage | sing | Is the woman dancing or singing on the stage?
verb | dog,catch,frisbee | chase | Is the dog catching or chasing the frisbee?
verb | man,sit,table | stand | Is the man sitting or standing at the table?
verb | man,open,door | lean | Is the man opening or leaning against the door?
verb | woman,visit,museum | enter | Is the woman visiting or entering the museum?
verb | men,carry,canoe | row | Are the men carrying or rowing the canoe?
object | girl,stand,grass | sand | Is the girl standing on the grass or the sand?
object | girl,stand,grass | water | Is the girl standing on the grass or in the water?
object | girl,ride,horse | beach | Is the girl riding the horse or riding on the beach?
object | girl,ride,horse | bike | Is the girl riding the horse or the bike?
object | woman,do,yoga | karate | Is the woman doing yoga or karate?
object | man,play,guitar | football | Is the man playing the guitar or football?
object | boy,fly,kite | plane | Is the boy flying the kite or the plane?
object | girl,swim,pool | sea | Is the girl swimming in the pool or the sea?
object | cat,lie,bed | floor | Is the cat lying on the bed or the floor?
object | boy,stand,beach | car | Is the boy standing on the beach or in the car?
object | boy,stand,beach | dog | Is the boy standing on the beach or near the dog?
object | woman,look,phone | sea | Is the woman looking at the phone or the sea?
object | woman,wear,jeans | hat | Is the woman wearing the jeans or the hat?
object | woman,walk,dog | street | Is the woman walking the dog or walking on the street?
"""

WITH_SENTENCE = """
verb | girl,sit,field | lie | A little girl is sitting down in the green field. |
    Is the girl sitting or lying in the field?
verb | dog,run,field | sit | Two dogs run happily across a field. |
    Is the dog running across or sitting in the field?
verb | girl,jump,log | sit | The girl jumps over a fallen log |
    Is the girl jumping over or sitting on the log?
verb | woman,look,window | open | a woman looked out of the window |
    Is the woman looking out of or opening the window?
verb | man,sit,beach | stand | A man sits with his dog on the beach. |
    Is the man sitting or standing on the beach?
verb | man,hold,phone | drop | A man holding a phone in his hand. |
    Is the man holding or dropping the phone?
verb | boy,hold,puppy | feed | A boy is holding two small puppies. |
    Is the boy holding or feeding the puppy?
verb | man,cross,street | run | Man crosses the street |
    Is the man crossing or running on the street?
subject | man,ride,horse | woman | The horse is ridden by a man |
    Is the man or the woman riding the horse?
subject | surfer,stand,wave | dog | The surfer stands on top of a wave. |
    Is the surfer or the dog standing on top of the wave?
subject | girl,walk,beach | boy | A girl walking to the beach to swim |
    Is the girl or the boy walking to the beach?
subject | boy,run,beach | girl | A boy runs, jumps and waves. |
    Is the boy or the girl running on the beach?
object | child,play,dog | cat | A child plays with a dog. |
    Is the child playing with the dog or the cat?
object | man,throw,park | beach | A man throwing a ball in the park. |
    Is the man throwing in the park or on the beach?
object | girl,stand,lake | sea | A girl stands near the lake. |
    Is the girl standing near the lake or the sea?
"""

REVERSED = """
subject | man,stand,beach | people | Are the people or the man standing on the beach?
verb | girl,sit,dog | hold | Is the girl holding or sitting near the dog?
verb | man,talk,phone | hold | Is the man holding or talking on the phone?
object | girl,stand,grass | water | Is the girl standing in the water or on the grass?
object | girl,ride,horse | beach | Is the girl riding on the beach or riding the horse?
object | man,play,guitar | football | Is the man playing football or the guitar?
"""


def cases(table):
    lines = table.strip().replace(" |\n    ", " | ").splitlines()
    return [[part.strip() for part in line.split("|")] for line in lines]


def ask(slot, positive, other, sentence="", turned=False):
    positive = Triplet(*positive.split(","))
    negative = positive._replace(**{slot: other})
    options = [positive.option(slot), negative.option(slot)]
    if turned:
        options.reverse()
    return grammatical_question((positive, negative), sentence, slot, *options)


@pytest.mark.parametrize("slot, positive, other, expected", cases(BARE))
def test_questions_without_a_sentence(slot, positive, other, expected):
    assert ask(slot, positive, other) == expected


@pytest.mark.parametrize("slot, positive, other, sentence, expected", cases(WITH_SENTENCE))
def test_questions_with_a_sentence(slot, positive, other, sentence, expected):
    assert ask(slot, positive, other, sentence) == expected


@pytest.mark.parametrize("slot, positive, other, expected", cases(REVERSED))
def test_each_option_keeps_its_own_words_in_the_other_order(slot, positive, other, expected):
    assert ask(slot, positive, other, turned=True) == expected


def test_the_embedded_questions_come_out_the_same():
    """The wording of data/embedded/svo, but one rides in a car, where its animals ride the car."""
    differing, riding = set(), set()
    for pair in load_pairs("svo"):
        words = pair.prompt.removeprefix("Is the ").removesuffix("?").split()
        first, second = pair.correct, pair.incorrect
        if pair.order == "incorrect_first":
            first, second = second, first
        if pair.slot == "subject":  # dog or the goat pulling the car
            triplets = [Triplet(word, words[4], words[6]) for word in (first, second)]
        elif pair.slot == "verb":  # dog pulling or pushing the car
            triplets = [Triplet(words[0], word, words[5]) for word in (first, second)]
        else:  # dog pulling the car or the cart
            triplets = [Triplet(words[0], words[1], word) for word in (first, second)]
        if grammatical_question(tuple(triplets), "", pair.slot, first, second) != pair.prompt:
            differing.add(pair.prompt)
        if {"riding", "car"} <= set(words) or {"riding", "boat"} <= set(words):
            riding.add(pair.prompt)
    assert differing == riding
    assert len(riding) == 16


@pytest.mark.parametrize("form", ["stand", "stands", "stood", "standing"])
def test_a_verb_may_come_in_any_form(form):
    assert participle(form) == "standing"
    assert ask("verb", f"girl,{form},grass", "sit") == ask("verb", "girl,stand,grass", "sit")


@pytest.mark.parametrize("verb", ["be", "have", "has", "love"])
def test_a_state_is_not_asked_about(verb):
    with pytest.raises(NoticeError, match=f"The verb '{verb}' makes no question"):
        ask("subject", f"girl,{verb},dog", "boy")
    with pytest.raises(NoticeError, match=f"The verb '{verb}' makes no question"):
        ask("verb", "girl,hold,dog", verb)


def test_what_sentences_tell():
    assert sentence_link("A girl stands on grass", "stand", "grass") == "on"
    assert sentence_link("A man rides a big brown horse", "ride", "horse") == ""
    assert sentence_link("Standing together in front of houses", "stand", "house") == "in front of"
    assert sentence_link("A man holding a phone in his hand", "hold", "hand") is None
    assert sentence_link("A man runs while holding grass", "run", "grass") is None
    assert sentence_link("The understanding of grass", "stand", "grass") is None
    assert sentence_link("", "stand", "grass") is None


def test_how_often_the_sentence_tells_in_the_fixture():
    told, listed, bare = 0, 0, 0
    with open(FIXTURE, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            flags = [row[f"{slot}_neg"] == "True" for slot in ("subj", "verb", "obj")]
            if sum(flags) != 1 or row["neg_triplet"] == "['[]']":
                continue
            triplet = Triplet(*row["pos_triplet"].split(","))
            known = sentence_link(row["sentence"], triplet.verb, triplet.object) is not None
            told += known
            listed += not known and triplet.object in _PLACES
            bare += not known and triplet.object not in _PLACES
    assert (told, listed, bare) == (26, 2, 0)


WORDS = st.text(min_size=1, max_size=12).filter(str.strip)


@settings(max_examples=100, deadline=None)
@given(st.tuples(WORDS, WORDS, WORDS), WORDS, st.text(max_size=60))
def test_any_words_give_a_question_or_a_notice_error(words, other, sentence):
    positive = Triplet(*words)
    for slot, turned in product(SLOTS, (False, True)):
        options = [positive.option(slot), positive._replace(**{slot: other}).option(slot)]
        try:
            question = ask_any(positive, slot, other, sentence, turned)
        except NoticeError:
            continue
        assert question.startswith(("Is the ", "Are the ", "Is ", "Are "))
        if options[0].isalpha() and options[1].isalpha() and options[0] != options[1]:
            option_spans(question, *options)


def ask_any(positive, slot, other, sentence, turned):
    negative = positive._replace(**{slot: other})
    options = [positive.option(slot), negative.option(slot)][:: -1 if turned else 1]
    return grammatical_question((positive, negative), sentence, slot, *options)
