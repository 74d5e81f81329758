"""Words of SVO-Probes that are no alternatives to each other."""

from ..pairs import symmetric

_ALIKE = {
    # Who somebody is says little of what else they are: both words may be true of one picture.
    "man": "adult actor artist athlete businessman cyclist dancer farmer father fisherman friend "
    "gentleman groom guy musician player politician singer student surfer tourist worker",
    "woman": "actress adult artist athlete bride businesswoman cyclist dancer farmer friend lady "
    "model mother musician player politician singer student surfer tourist worker",
    "child": "baby boy girl kid student toddler",
    "kid": "baby boy girl student toddler",
    "baby": "boy girl toddler",
    "toddler": "boy girl",
    "player": "athlete team",
    "people": "adult band child couple crowd family fan friend group kid man team tourist woman",
    "group": "band crowd family team",
    "dog": "animal puppy",
    "cat": "animal kitten",
    "horse": "animal pony",
    "cow": "animal bull calf cattle",
    "bird": "animal duck parrot pigeon seagull",
    "standing": "leaning posing waiting",
    "sitting": "posing relaxing resting",
    "lying": "laying relaxing resting sleeping sunbathing",
    "sleeping": "relaxing resting",
    "relaxing": "resting",
    "running": "jogging racing",
    "walking": "hiking strolling wandering",
    "jumping": "hopping leaping",
    "riding": "cycling driving",
    "holding": "carrying",
    "looking": "gazing staring watching",
    "talking": "chatting speaking",
    "smiling": "laughing posing",
    "drinking": "sipping",
    "performing": "dancing playing singing",
    "cutting": "chopping slicing",
    "water": "lake ocean pond pool river sea",
    "ocean": "sea",
    "beach": "coast sand seashore shore",
    "street": "city road",
    "path": "trail",
    "grass": "field lawn meadow",
    "field": "meadow",
    "forest": "tree wood woods",
    "hill": "mountain",
    "rock": "stone",
    "sofa": "couch",
    "bicycle": "bike",
    "vehicle": "bus car truck",
    "boat": "ship",
    "phone": "cellphone smartphone telephone",
    "laptop": "computer",
    "cup": "mug",
    "house": "building home",
    "photo": "photograph picture",
}
NEAR_SYNONYMS = symmetric({word: others.split() for word, others in _ALIKE.items()})
"""{word: words that may be true of the same picture}: never options of one question. Verbs are
participles. Man and boy, or woman and girl, are not among them: the data set's annotators, who
found the negative image to be none of the sentence, told them apart."""
