"""Which heads matter (`selection`), how certain that is (`statistics`), and where they look
(`roles`)."""

from .attention import (
    AttentionMaps,
    RunAttention,
    attention_maps,
    image_attention,
    minus_average,
    shares,
)
from .chance import NULLS, chance
from .content import carried, content_shares, decompose, strongest_heads
from .decision import (
    Condition,
    Finding,
    Group,
    as_units,
    decide,
    fewest_scenes,
    half_of,
    scenes_needed,
)
from .distractors import distractor_suppression, matched_scenes
from .grounding import grounding
from .outliers import OutlierPictures, avoidance, outlier_avoidance, outlier_pictures
from .overlap import Outliers, head_overlap, outlier_patches, regions, shuffled
from .probe import object_probe
from .questions import two_questions
from .replication import agreement, confirm_heads
from .role_splits import replication_rates, role_agreement, role_confusion, role_halves
from .roles import HEAD_ROLES, against_random, head_roles
from .selection import (
    KINDS,
    MINIMUM,
    RULES,
    head_effects,
    universal_heads,
)
from .statistics import (
    bootstrap_interval,
    max_t_test,
    ratio_interval,
    sign_flip_test,
    split_half_correlation,
    two_sd,
)
from .table import (
    CONDITION,
    HEAD,
    answered,
    beyond_null,
    gather,
    halves,
    null_of,
    scene_effects,
)

__all__ = [
    "CONDITION",
    "HEAD",
    "HEAD_ROLES",
    "KINDS",
    "MINIMUM",
    "NULLS",
    "RULES",
    "AttentionMaps",
    "Condition",
    "Finding",
    "Group",
    "OutlierPictures",
    "Outliers",
    "RunAttention",
    "against_random",
    "agreement",
    "answered",
    "as_units",
    "attention_maps",
    "avoidance",
    "beyond_null",
    "bootstrap_interval",
    "carried",
    "chance",
    "confirm_heads",
    "content_shares",
    "decide",
    "decompose",
    "distractor_suppression",
    "fewest_scenes",
    "gather",
    "grounding",
    "half_of",
    "halves",
    "head_effects",
    "head_overlap",
    "head_roles",
    "image_attention",
    "matched_scenes",
    "max_t_test",
    "minus_average",
    "null_of",
    "object_probe",
    "outlier_avoidance",
    "outlier_patches",
    "outlier_pictures",
    "ratio_interval",
    "regions",
    "replication_rates",
    "role_agreement",
    "role_confusion",
    "role_halves",
    "scene_effects",
    "scenes_needed",
    "shares",
    "shuffled",
    "sign_flip_test",
    "split_half_correlation",
    "strongest_heads",
    "two_questions",
    "two_sd",
    "universal_heads",
]
