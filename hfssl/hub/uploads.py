"""What a push of a source would send: which kind of repository, which files, and the card. The network is not asked.

A model, a tokenizer, a corpus, results, a parquet file, a Space or a metric: `plan_push` tells them apart.
"""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from hfssl.data.layout import LAYOUT
from hfssl.errors import InputError, one_line
from hfssl.evaluation.metric_space import write_metric_space
from hfssl.evaluation.report import loss_curves
from hfssl.hub.card import minimal_card
from hfssl.hub.datasets import corpus_files, embeddings_card
from hfssl.hub.scores import Scores, read_scores, result_files
from hfssl.programs import recipes

PICKLES = (".bin", ".pt", ".pth", ".th", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5")
INDEX = "model.safetensors.index.json"
WEIGHTS = ("model.safetensors", INDEX)
CARD, CURVE = "README.md", "training_curve.png"
RECIPES = {"gpt2": "gpt", "llama": "gpt"}  # by model_type where its name does not say it
_SECRET = re.compile(rb"hf_[A-Za-z0-9]{30,}")
_BINARY = (".safetensors", ".parquet", ".png", ".jpg", ".webp")
_LOOKED_AT = 10 * 2**20  # bytes: no larger file is searched for a token


@dataclass
class Upload:
    """What a push sends.

    Attributes:
        kind: in words.
        repo_type: "model", "dataset" or "space".
        files: by their path in the repository: a file, or its content.
        left_out: files of the folder that stay, with the reason.
        space_sdk: of a Space.
        model_type: of a model; a repository with another one is refused.
        scores: of results, which are added to a model that must be there, by a pull request.
    """

    kind: str
    repo: str
    repo_type: str
    files: dict[str, Path | bytes]
    left_out: dict[str, str] = field(default_factory=dict)
    space_sdk: str | None = None
    model_type: str | None = None
    scores: Scores | None = None

    def size(self, name: str) -> int:
        """Bytes of a file."""
        content = self.files[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def plan_push(source: str | Path, repo: str) -> Upload:
    """What a push of a folder or file would send; nothing is sent, and the network is not asked.

    Args:
        source: a model, tokenizer, corpus, folder of results, parquet file, Space or leaderboard page, or metric:NAME.
        repo: ORG/NAME.

    Raises:
        InputError: the name of the repository is no such name, or the source is nothing that can be pushed: weights
            that are pickles, a card whose head is damaged, a link out of the folder, a token in one of the files.
    """
    _check_repo(repo)
    if str(source).startswith("metric:"):
        upload = _metric(str(source).removeprefix("metric:"), repo)
    else:
        path = Path(source).expanduser()
        if not path.exists():
            raise InputError(f"no such file or folder: {str(source)!r}")
        try:
            upload = next((make(path, repo) for is_it, make in _KINDS if is_it(path)), None)
        except InputError:
            raise
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{source} cannot be pushed: {type(error).__name__}: {one_line(error)[:200]}") from None
        if upload is None:
            there = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) if path.is_dir() else path.name
            raise InputError(
                f"{source} is nothing that can be pushed: no model, tokenizer, corpus, results, parquet file or Space; "
                f"it holds {there or 'nothing'}"
            )
    for name, content in upload.files.items():
        _check_secret(name, content)
    return upload


def _check_repo(repo: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise InputError(f"{repo!r} is no name of a repository: {one_line(error)}") from None
    if repo.count("/") != 1:
        raise InputError(f"{repo!r} is no name of a repository: it must be USER/NAME or ORGANISATION/NAME")


def _check_secret(name: str, content: Path | bytes) -> None:
    from huggingface_hub import get_token

    if name.lower().endswith(_BINARY) or (not isinstance(content, bytes) and content.stat().st_size > _LOOKED_AT):
        return
    text = content if isinstance(content, bytes) else content.read_bytes()
    tokens = [token.encode() for token in (os.environ.get("HF_TOKEN"), get_token()) if token and len(token) > 5]
    if _SECRET.search(text) or any(token in text for token in tokens):
        raise InputError(f"{name} holds an access token: nothing was sent; take it out and make a new token")


# The kinds of sources. Each tells whether a path is one and makes its upload.


def _files_of(folder: Path) -> tuple[dict[str, Path | bytes], dict[str, str]]:
    """The files of a folder that go to the Hub, by their names there, and those that stay, with the reason."""
    files: dict[str, Path | bytes] = {}
    left_out: dict[str, str] = {}
    root = folder.resolve()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        parts = name.split("/")
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise InputError(f"{path} is a link out of the folder; nothing was sent")
        if not path.is_file():
            continue
        if any(part.startswith((".", "checkpoint-")) or part in ("runs", "wandb", "__pycache__") for part in parts):
            continue
        if path.suffix.lower() in PICKLES or _is_pickle(path):
            left_out[name] = "a pickle, which can run code when it is loaded; weights go as safetensors"
        else:
            files[name] = path
    return files, left_out


def _is_pickle(path: Path) -> bool:
    """By its first bytes: a pickle of protocol 2 to 5, or torch's zip of one."""
    with path.open("rb") as file:
        start = file.read(4)
    if start[:1] == b"\x80" and start[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return True
    if start != b"PK\x03\x04":
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(".pkl") for name in archive.namelist())
    except zipfile.BadZipFile:
        return False


def _read_card(files: dict[str, Path | bytes], default: Callable[[], str]) -> str:
    from huggingface_hub import ModelCard

    if CARD not in files:
        return default()
    text = Path(files[CARD]).read_text(encoding="utf-8", errors="replace")
    try:
        ModelCard(text, ignore_metadata_errors=False)
    except Exception as error:  # PyYAML's and huggingface_hub's
        raise InputError(f"{files[CARD]} has a damaged head: {one_line(error)[:200]}") from None
    return text


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file()


def _model(folder: Path, repo: str) -> Upload:
    files, left_out = _files_of(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
        model_type = config.get("model_type") or config["architecture"]  # timm's
    except (ValueError, KeyError, AttributeError):
        raise InputError(f"{folder / 'config.json'} is no configuration of a model") from None
    _check_weights(folder, files)
    if not any(name in files for name in WEIGHTS):
        pickled = next(iter(left_out), None)
        found = f"only {pickled}, {left_out[pickled]}" if pickled else "no model.safetensors"
        raise InputError(f"{folder} holds no weights that can be pushed: {found}")
    named = [
        each
        for value in (config.get("auto_map") or {}).values()
        for each in ([value] if isinstance(value, str) else value)
    ]
    missing = {f"{each.rpartition('--')[2].partition('.')[0]}.py" for each in named if each} - files.keys()
    if missing:
        raise InputError(f"{folder} lacks {', '.join(sorted(missing))}, which its config.json names; save it again")
    card = _read_card(files, lambda: minimal_card(folder, repo))
    card = _named_in_card(card, repo)
    recipe = "conditional" if LAYOUT in files else RECIPES.get(model_type, model_type.removeprefix("hfssl_"))
    if "recipe.yaml" in files and recipe in recipes():
        program = recipes()[recipe]
        files[f"recipe/{program.name}"] = program
    if "log_history.json" in files and CURVE not in files and (curve := _curve(folder / "log_history.json")):
        files[CURVE] = curve
        card = f"{card.rstrip()}\n\n## Training curve\n\n![the loss by step]({CURVE})\n"
    files[CARD] = card.encode()
    return Upload("model", repo, "model", files, left_out, model_type=model_type)


def _check_weights(folder: Path, files: dict[str, Path | bytes]) -> None:
    """Each safetensors file can be read, and all parts that an index names are there."""
    from safetensors import SafetensorError, safe_open

    if INDEX in files:
        parts = set(json.loads((folder / INDEX).read_text())["weight_map"].values())
        if missing := sorted(part for part in parts if part not in files or "/" in part):
            raise InputError(f"{folder} lacks {', '.join(missing[:3])}, which its {INDEX} names; save it again")
    for name in files:
        if name.endswith(".safetensors"):
            try:
                with safe_open(folder / name, "np") as file:
                    file.keys()
            except SafetensorError as error:
                raise InputError(f"{folder / name} is damaged: {one_line(error)[:200]}") from None


def _named_in_card(card: str, repo: str) -> str:
    """The card with the repository's name in its loading lines, whatever the folder was called."""

    def named(block: re.Match) -> str:
        code = re.sub(r'(from_pretrained\()"[^"]*"', rf'\1"{repo}"', block[0])
        return re.sub(r"(hfssl (?:colorize|inpaint)) \S+", rf"\1 {repo}", code)

    return re.sub(r"```python\n.*?```", named, card, count=1, flags=re.S)


def _curve(history: Path) -> bytes | None:
    """The training loss as a PNG, the same bytes for the same history."""
    try:
        points = [(one["step"], one["loss"]) for one in json.loads(history.read_text()) if "loss" in one]
    except (ValueError, KeyError, TypeError):
        return None
    if len(points) < 2:
        return None
    buffer = io.BytesIO()
    loss_curves({"training": points}).savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()


def _is_tokenizer(path: Path) -> bool:
    return (path / "tokenizer.json").is_file()


def _tokenizer(folder: Path, repo: str) -> Upload:
    files, left_out = _files_of(folder)
    files[CARD] = _named_in_card(_read_card(files, lambda: minimal_card(folder, repo)), repo).encode()
    return Upload("tokenizer", repo, "model", files, left_out)


def _is_corpus(path: Path) -> bool:
    return (path / "manifest.json").is_file()


def _corpus(folder: Path, repo: str) -> Upload:
    return Upload("packed corpus", repo, "dataset", corpus_files(folder, repo))


def _is_scores(path: Path) -> bool:
    return path.is_dir() and bool(result_files(path))


def _scores(folder: Path, repo: str) -> Upload:
    scores = read_scores(folder)
    return Upload("scores", repo, "model", scores.files(), scores=scores)


def _is_embeddings(path: Path) -> bool:
    return path.suffix == ".parquet" and path.is_file()


def _embeddings(path: Path, repo: str) -> Upload:
    files = {f"data/{path.name}": path, CARD: embeddings_card(path, repo).encode()}
    return Upload("embeddings", repo, "dataset", files)


def _sdk(path: Path) -> str | None:
    from huggingface_hub import RepoCard

    try:
        return RepoCard.load(path / CARD).data.to_dict().get("sdk") if (path / CARD).is_file() else None
    except Exception:  # a damaged head is refused by the kind that the folder is
        return None


def _space(folder: Path, repo: str) -> Upload:
    files, left_out = _files_of(folder)
    return Upload("Space", repo, "space", files, left_out, space_sdk=_sdk(folder))


def _metric(name: str, repo: str) -> Upload:
    """A metric of `hfssl.evaluation.metric_space` as the Space that `evaluate.load` finds."""
    with TemporaryDirectory() as folder:
        written = write_metric_space(name, Path(folder) / name)
        upload = _space(written, repo)
        upload.files = {path: Path(file).read_bytes() for path, file in upload.files.items()}
    if repo.partition("/")[2] != name:
        raise InputError(f"evaluate.load finds a metric in a Space of its name: push it to {repo.split('/')[0]}/{name}")
    card = upload.files[CARD].decode().replace(f'evaluate.load("{name}"', f'evaluate.load("{repo}"')
    upload.files[CARD] = card.encode()
    return upload


# In this order: a Space may hold anything, a model results and a tokenizer.
_KINDS: tuple[tuple[Callable[[Path], bool], Callable[[Path, str], Upload]], ...] = (
    (lambda path: bool(_sdk(path)), _space),
    (_is_model, _model),
    (_is_scores, _scores),
    (_is_corpus, _corpus),
    (_is_tokenizer, _tokenizer),
    (_is_embeddings, _embeddings),
)
