"""Packed corpora and embeddings as data sets of the Hub: parquet for `datasets.load_dataset`, also as a stream."""

from __future__ import annotations

import io
import json
from pathlib import Path

from hfssl.data.corpus import Corpus
from hfssl.errors import InputError, one_line
from hfssl.hub.card import shown_source

_HEAD = """---
tags:
- hfssl
configs:
- config_name: default
  data_files:
  - split: train
    path: data/*.parquet
---

"""


def corpus_files(folder: Path, repo: str) -> dict[str, Path | bytes]:
    """A corpus as one parquet file a shard, a document a row ("input_ids", the end token last), its manifest and card.

    The same corpus gives the same bytes, so that a second push sends nothing.

    Raises:
        InputError: the folder holds no whole corpus.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    corpus = Corpus(folder)
    # Of a user's file the name alone: where it lies is nobody's business.
    manifest = corpus.manifest | {"name": shown_source(corpus.manifest["name"])}
    count = len(manifest["shards"])
    files: dict[str, Path | bytes] = {"manifest.json": (json.dumps(manifest, indent=1) + "\n").encode()}
    for number, (tokens, ends) in enumerate(corpus.shards()):
        offsets = pa.array([0, *ends.tolist()], pa.int64())
        documents = pa.LargeListArray.from_arrays(offsets, pa.array(tokens))
        buffer = io.BytesIO()
        pq.write_table(pa.table({"input_ids": documents}), buffer)
        files[f"data/train-{number:05d}-of-{count:05d}.parquet"] = buffer.getvalue()
    for path in sorted(folder.glob("tokenizer*.json")):
        if path.is_symlink():
            raise InputError(f"{path} is a link; nothing was sent")
        files[path.name] = path
    card = f"""# {repo.partition("/")[2]}

* text: {manifest["name"]}, {manifest["bytes"]:,} bytes in UTF-8
* {manifest["documents"]:,} documents, {manifest["tokens"]:,} tokens
* tokenizer: hash {manifest["tokenizer"]}; the token {manifest["end_token_id"]} ends each document

```python
from datasets import load_dataset
documents = load_dataset("{repo}", split="train")  # or with streaming=True
ids = documents[0]["input_ids"]
```
"""
    return files | {"README.md": (_HEAD + card).encode()}


def embeddings_card(path: Path, repo: str) -> str:
    """The card of a file that `hfssl probe --export_embeddings` wrote."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} is no parquet file: {one_line(error)[:200]}") from None
    return f"""{_HEAD}# {repo.partition("/")[2]}

{file.metadata.num_rows:,} rows: {", ".join(file.schema_arrow.names)}.

```python
from datasets import load_dataset
rows = load_dataset("{repo}", split="train")
values = rows[0]
```
"""
