"""Models of the Hub at one revision, and what is shown before code that lies beside weights may run.

Code runs only where the user said --trust_remote_code. Then the whole repository is taken at one commit, so that what
is shown is what runs, whoever pushes meanwhile.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

from hfssl.errors import InputError, one_line

logger = logging.getLogger(__name__)

# Of a repository: weights as safetensors alone, configs, tokenizers, code; no pickles.
_WANTED = ("*.json", "*.safetensors", "*.py", "*.txt", "*.model", "*.md")


def pinned_model(source: str, trust_remote_code: bool = False) -> str:
    """What from_pretrained is given for a model: a folder as it is, a Hub id as the folder of one commit of it.

    Args:
        source: a folder, ORG/NAME, or ORG/NAME@REVISION, a branch, tag or commit.
        trust_remote_code: the code beside the weights will run: its files are logged, with the hash of each.

    Returns:
        The folder. A Hub id without a revision whose code may not run is returned as it is.

    Raises:
        InputError: the Hub has no such repository or revision, or is not reached; the config names code of another
            repository.
    """
    name, _, revision = source.partition("@")
    is_local = Path(source).expanduser().is_dir()
    if not is_local and not revision and not trust_remote_code:
        return source
    folder, at = Path(source).expanduser(), ""
    if not is_local:
        folder = _download(name, revision or "main")
        at = f" at commit {folder.name}"  # the cache names a snapshot after its commit
    _refuse_foreign_code(folder, name)
    code = sorted(folder.rglob("*.py"))
    if trust_remote_code and code:
        logger.info("--trust_remote_code lets this code of %s run%s:", name, at)
        for path in code:
            logger.info("  %s  sha256 %s", path.relative_to(folder), hashlib.sha256(path.read_bytes()).hexdigest())
    return str(folder)


def _refuse_foreign_code(folder: Path, name: str) -> None:
    """transformers would fetch code that a config names in another repository, from that one's main, and run it."""
    for path in folder.glob("*.json"):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue  # whoever needs the file says so
        named = json.dumps(content["auto_map"]) if isinstance(content, dict) and "auto_map" in content else ""
        if "--" in named:
            raise InputError(f"{path.name} of {name} names code of another repository, which never runs: {named[:200]}")


def _download(name: str, revision: str) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    try:
        commit = HfApi().model_info(name, revision=revision).sha
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(_WANTED)))
    except Exception as error:  # the Hub's client, its HTTP library and the socket each have errors of their own
        raise InputError(f"cannot load {name!r} at {revision} from the Hub: {one_line(error)[:300]}") from None
