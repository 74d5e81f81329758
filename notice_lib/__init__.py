"""NOTICE: activation patching of vision-language models on semantic pairs.

Everything that a chapter needs is here by name; modules are imported when a name is first used,
so that `import notice_lib` costs nothing.
"""

from importlib import import_module

__version__ = "0.1.0.dev0"

_HOMES = {
    "NoticeError": "errors",
    "data_dir": "paths",
    "PairSet": "pairs",
    "SemanticPair": "pairs",
    "load_pairs": "datasets",
    "LabelledImage": "corruption",
    "check_pairs": "corruption.generative",
    "generative_pairs": "corruption.generative",
    "load_inpainter": "corruption.inpainters",
    "replace_tokens": "corruption",
    "semantic_image_pairs": "corruption",
    "VLM": "models",
    "answered_correctly": "models",
    "answers": "models",
    "load_model": "loading",
    "GaussianNoise": "corruption",
    "match_strength": "corruption",
    "Circuit": "patching",
    "Site": "patching",
    "Sweep": "patching",
    "ablate": "patching",
    "effects": "patching",
    "read_sweep": "patching",
    "run_inputs": "patching",
    "site_grid": "patching",
    "sweep": "patching",
    "verify": "patching",
    "write_sweep": "patching",
    "heads": None,
    "reproduce": "reproduction",
    "plotting": None,
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
