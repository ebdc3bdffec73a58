"""`hfssl push SOURCE REPO`: what `plan_push` made of a source goes to the Hub in one commit.

First the large files go up one by one, then one commit makes them and the small ones visible together: a push that
breaks off leaves nothing half-written, and the same command sends only what is missing.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

from hfssl.errors import InputError
from hfssl.hub.problems import hub_problem
from hfssl.hub.scores import card_scores, with_scores
from hfssl.hub.uploads import CARD, Upload

logger = logging.getLogger(__name__)

_STALE = {  # files of which those of an earlier push may not stay beside ours
    "model": re.compile(r"model(-\d+-of-\d+)?\.safetensors|model\.safetensors\.index\.json"),
    "dataset": re.compile(r"data/[^/]+\.parquet"),
    "space": re.compile(r"(?!)"),
}


def push_table(upload: Upload) -> str:
    """What a push would send, in words: files with their sizes, what is left out, and the card."""
    lines = [f"{upload.kind} to the {upload.repo_type} repository {upload.repo}; nothing was sent"]
    lines += [f"  {upload.size(name):>13,}  {name}" for name in sorted(upload.files)]
    lines += [f"  {'':>13}  {CARD}, the model's with these scores"] if upload.scores is not None else []
    lines += [f"  {sum(map(upload.size, upload.files)):>13,}  bytes in {len(upload.files)} files"]
    lines += [f"left out: {name}: {reason}" for name, reason in upload.left_out.items()]
    if upload.scores is not None:
        lines += ["the card of the model gets", with_scores("", upload.repo, upload.scores.index).strip()]
    elif CARD in upload.files:
        content = upload.files[CARD]
        lines += [CARD, (content if isinstance(content, bytes) else content.read_bytes()).decode().strip()]
    return "\n".join(lines)


def send(
    upload: Upload, private: bool = False, pr: bool = False, token: str | None = None, revision: str | None = None
) -> str:
    """Sends it, and returns the address of the commit or of the pull request.

    Args:
        private: of a new repository.
        pr: open a pull request instead of a commit; scores always do.
        token: by default the one that `hf auth login` keeps, or HF_TOKEN.
        revision: a branch, by default main.

    Raises:
        InputError: no token, one without the right to write, no connection, a repository of another kind, or a push
            that broke off: it says how far it came.
    """
    from huggingface_hub import HfApi, get_token

    if (token or get_token()) is None:
        raise InputError("no token: run `hf auth login`, or set HF_TOKEN to a token with the right to write")
    progress = ["nothing was sent"]
    try:
        return _send(HfApi(token=token), upload, private, pr or upload.scores is not None, revision, progress)
    except InputError:
        raise
    except Exception as error:  # huggingface_hub, its HTTP library and the socket each have errors of their own
        problem = f"cannot push to {upload.repo}: {hub_problem(error)}; {progress[-1]}"
        raise InputError(f"{problem}; the same command sends what is missing") from None


def _send(api, upload: Upload, private: bool, pr: bool, revision: str | None, progress: list[str]) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    where, message = {"repo_id": upload.repo, "repo_type": upload.repo_type}, f"hfssl push: {upload.kind}"
    there: set[str] = set()
    exists = api.repo_exists(**where)
    if upload.scores is not None:
        _refuse_absent(api, upload, exists)
        upload.files |= _merged_scores(api, upload)
    elif exists:
        there = {one.rfilename for one in _info_of_same_kind(api, upload, revision).siblings or []}
        if upload.kind == "model" and CARD in there:
            upload.files[CARD] = _with_scores_of(api, upload, revision)
    else:
        api.create_repo(**where, private=private, space_sdk=upload.space_sdk, exist_ok=True)
    additions = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in upload.files.items()
    ]
    # What an earlier push left and this one replaces under other names: both together would be read as one.
    stale = [name for name in sorted(there - upload.files.keys()) if _STALE[upload.repo_type].fullmatch(name)]
    opened = _open_request(api, upload, message) if pr else None
    where |= {"revision": opened.git_reference if opened else revision, "create_pr": pr and not opened}
    for count, addition in enumerate(sorted(additions, key=lambda one: one.upload_info.size)):
        progress.append(f"{count} of {len(additions)} files are there, none is visible yet")
        api.preupload_lfs_files(**where, additions=[addition], free_memory=False)
        logger.info("%s, %s bytes", addition.path_in_repo, f"{addition.upload_info.size:,}")
    progress.append("all files are there, none is visible yet")
    operations = [*additions, *(CommitOperationDelete(name) for name in stale)]
    commit = api.create_commit(**where, operations=operations, commit_message=message)
    return opened.url if opened else commit.pr_url or commit.commit_url


def _open_request(api, upload: Upload, message: str):
    """The user's own open pull request of an earlier push of this kind, which goes on."""
    user = api.whoami()["name"]
    found = api.get_repo_discussions(
        upload.repo, repo_type=upload.repo_type, discussion_type="pull_request", discussion_status="open"
    )
    return next((one for one in found if one.title == message and one.author == user), None)


def _refuse_absent(api, upload: Upload, exists: bool) -> None:
    if exists:
        return
    other = next((kind for kind in ("dataset", "space") if api.repo_exists(upload.repo, repo_type=kind)), None)
    there = f"it is a {other}" if other else "push the model first"
    raise InputError(f"scores are added to a model, and there is no model {upload.repo}: {there}")


def _info_of_same_kind(api, upload: Upload, revision: str | None):
    """A push goes on with a repository of the same kind, and is never laid over another one."""
    info = api.repo_info(upload.repo, repo_type=upload.repo_type, revision=revision)
    if upload.space_sdk and getattr(info, "sdk", None) not in (None, upload.space_sdk):
        raise InputError(f"{upload.repo} is a Space with the SDK {info.sdk}, not {upload.space_sdk}; give another name")
    if upload.repo_type == "model" and "config.json" in {one.rfilename for one in info.siblings or []}:
        path = api.hf_hub_download(upload.repo, "config.json", revision=revision)
        there = json.loads(Path(path).read_text()).get("model_type")
        if there != upload.model_type:
            raise InputError(
                f"{upload.repo} holds a {there} model and this is a {upload.model_type or upload.kind}; "
                "give another name"
            )
    return info


def _text_there(api, upload: Upload, path: str, revision: str | None = None) -> str | None:
    if not api.file_exists(upload.repo, path, revision=revision):
        return None
    return Path(api.hf_hub_download(upload.repo, path, revision=revision)).read_text(encoding="utf-8")


def _merged_scores(api, upload: Upload) -> dict[str, bytes]:
    """The scores with those that the model has already, and its card with them in its head."""
    card = with_scores(_text_there(api, upload, CARD) or "", upload.repo, upload.scores.index)
    return upload.scores.files(lambda path: _text_there(api, upload, path)) | {CARD: card.encode()}


def _with_scores_of(api, upload: Upload, revision: str | None) -> bytes:
    """Our card with the scores that the card on the Hub has."""
    there = card_scores(_text_there(api, upload, CARD, revision) or "", upload.repo)
    ours = Path(upload.files[CARD]).read_bytes() if isinstance(upload.files[CARD], Path) else upload.files[CARD]
    return with_scores(ours.decode(), upload.repo, there).encode() if there else ours
