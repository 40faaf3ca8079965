"""The value of `model.weights`, taken apart: a file, a repository of the Hugging Face Hub, or another run."""

import dataclasses
import os
import re
from pathlib import Path

FILE = "model.safetensors"  # of a repository that names no other
PICKLES = (".pth", ".pt", ".bin", ".ckpt", ".tar", ".pkl")
_HUB = re.compile(r"(?P<place>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?(:(?P<file>[^:@]+))?")


@dataclasses.dataclass(frozen=True)
class Origin:
    """The place that weights come from.

    Attributes:
        kind: file, hub or run.
        place: a path, OWNER/NAME of a repository, or the directory of a run.
        revision: of a repository, a branch, a tag or a commit; "": its main branch.
        file: of a repository.
    """

    kind: str
    place: str
    revision: str = ""
    file: str = ""

    @property
    def path(self) -> Path:
        """The file, or the directory of a run."""
        return Path(self.place).expanduser()

    @classmethod
    def of(cls, text: str) -> "Origin":
        """Returns the origin that a text without a problem names."""
        if text.startswith("run:"):
            return cls("run", text.removeprefix("run:"))
        if text.startswith("hf:"):
            found = _HUB.fullmatch(text.removeprefix("hf:"))
            return cls("hub", found["place"], found["revision"] or "", found["file"] or FILE)
        return cls("file", text)


def origin_problem(text: str) -> str:
    """Returns why a text names no weights; "" where it does. Whether they are there is not looked at."""
    if text.startswith("run:"):
        return "" if text != "run:" else "write run:DIR, the directory of a run"
    if text.startswith("hf:"):
        found = _HUB.fullmatch(text.removeprefix("hf:"))
        if not found:
            return "write hf:OWNER/NAME, such as hf:timm/resnet18.a1_in1k, with @REVISION and :FILE behind it where it takes them"
        return "" if (found["file"] or FILE).endswith(".safetensors") else "name a .safetensors file of the repository"
    if "://" in text:
        return "addresses are not fetched; download the file and name it, or write hf:OWNER/NAME of the Hugging Face Hub"
    if text.endswith(PICKLES):
        new = f"{os.path.splitext(text)[0]}.safetensors"
        return ("this is a pickle, which can run code and is not read; convert it where PyTorch is: import torch, safetensors.torch; "
                f"state = torch.load({text!r}, map_location='cpu', weights_only=True); "
                f"safetensors.torch.save_file({{k: v.contiguous() for k, v in state.items()}}, {new!r})")  # fmt: skip
    if not text.endswith(".safetensors"):
        run = f"; for the weights of a run write run:{text}" if os.path.isdir(text) else ""
        return f"write FILE.safetensors, hf:OWNER/NAME of the Hugging Face Hub, or run:DIR of another run{run}"
    return ""
