"""Choose the checkpoints of a wheel; hatchling calls this when it builds one.

A release's wheel lacks the checkpoints of released.json, which its release has. The version of a
development build has no release, so its wheel brings all checkpoints. No wheel brings the other
seeds, which only the repository has.
"""

import json
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE, TARGET = "data/checkpoints", "notice_lib/data/checkpoints"
SEEDS = "seeds"


class CustomBuildHook(BuildHookInterface):
    def initialize(self, version: str, build_data: dict) -> None:
        """Add the checkpoints to the wheel; an editable installation uses those of the checkout."""
        if version == "editable":
            return
        checkpoints = Path(self.root) / SOURCE
        released = json.loads((checkpoints / "released.json").read_text(encoding="utf-8"))
        has_release = "dev" not in self.metadata.version
        for path in checkpoints.iterdir():
            if path.name != SEEDS and not (has_release and path.name in released):
                build_data["force_include"][str(path)] = f"{TARGET}/{path.name}"
