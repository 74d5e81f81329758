"""NOTICE: activation patching of vision-language models on semantic pairs.

Everything that a chapter needs is here by name; modules are imported when a name is first used,
so that `import notice_lib` costs nothing.
"""

from importlib import import_module

__version__ = "0.1.0.dev0"

_HOMES = {
    "NoticeError": "errors",
    "checkpoint_dir": "paths",
    "data_dir": "paths",
    "PairSet": "pairs",
    "SemanticPair": "pairs",
    "load_pairs": "datasets",
    "read_facial_expressions": "datasets.faces",
    "read_labels": "datasets.own",
    "read_mit_states": "datasets.mit_states",
    "read_svo_probes": "datasets.svo_probes",
    "write_set": "datasets.card",
    "LabelledImage": "corruption",
    "StableDiffusionInpainter": "corruption.inpainters",
    "check_pairs": "corruption.generative",
    "generative_pairs": "corruption.generative",
    "REPAINTED": "corruption.generative",
    "keep_outside": "corruption.inpainters",
    "load_inpainter": "corruption.inpainters",
    "painted_box": "corruption.generative",
    "source_caption": "corruption.generative",
    "target_caption": "corruption.generative",
    "replace_options": "pairs.prompts",
    "replace_tokens": "corruption",
    "semantic_image_pairs": "corruption",
    "ROLES": "models",
    "VLM": "models",
    "answered_correctly": "models",
    "answers": "models",
    "load_model": "loading",
    "watch": "models.hooks",
    "GaussianNoise": "corruption",
    "match_strength": "corruption",
    "noisy_runs": "corruption",
    "Circuit": "patching",
    "Site": "patching",
    "Sweep": "patching",
    "ablate": "patching",
    "effects": "patching",
    "fraction_recovered": "patching",
    "logit_difference": "patching",
    "read_sweep": "patching",
    "record": "patching.reference",
    "run_inputs": "patching",
    "site_grid": "patching",
    "sweep": "patching",
    "verify": "patching",
    "write_sweep": "patching",
    "heads": None,
    "reproduce": "reproduction",
    "plotting": None,
    "Explorer": "plotting.explorer",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    if home is None:
        return import_module(f".{name}", __name__)
    return getattr(import_module(f".{home}", __name__), name)


def __dir__() -> list[str]:
    return __all__
