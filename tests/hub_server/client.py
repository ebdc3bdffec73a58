"""What tests of the Hub do with huggingface_hub's client again and again."""

import hashlib
import os

from huggingface_hub import CommitOperationAdd, hf_hub_download

LARGE = os.urandom(2**20)  # of an LFS file


def add(api, files, id="me/x", message="add", **kwargs):
    operations = [CommitOperationAdd(path, content) for path, content in files.items()]
    return api.create_commit(id, operations, commit_message=message, **kwargs)


def download(id, path, **kwargs):
    with open(hf_hub_download(id, path, **kwargs), "rb") as file:
        return file.read()


def sha256(content):
    return hashlib.sha256(content).hexdigest()
