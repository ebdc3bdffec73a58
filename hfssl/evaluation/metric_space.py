"""The `evaluate` modules beside this file as folders that `evaluate.load` takes, and that are Spaces as they stand.

    write_metric_space("glue_official", "out/glue_official")
    evaluate.load("out/glue_official", "mrpc")

Uploaded as the Space USER/glue_official, `evaluate.load("USER/glue_official", "mrpc")` finds it: the repository, the
folder and the module must have one name.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from hfssl.errors import InputError, nearest

METRIC_MODULES = {"glue_official": "GLUE", "super_glue_official": "SuperGLUE"}
_HERE = Path(__file__).resolve().parent

_CARD = """---
title: {name}
sdk: gradio
app_file: app.py
pinned: false
tags:
- evaluate
- metric
description: The official metrics of {benchmark}.
---

# {name}

The official metrics of {benchmark}, with the inputs and keys of `evaluate`'s own module; constant predictions give 0
and a warning instead of NaN. From hfssl, tested against scikit-learn and scipy.

```python
import evaluate

metric = evaluate.load("{name}", "{example}")
```
"""
_APP = """import evaluate
from evaluate.utils import launch_gradio_widget

launch_gradio_widget(evaluate.load("{name}.py", "{example}"))
"""
_EXAMPLES = {"glue_official": "mrpc", "super_glue_official": "boolq"}


def write_metric_space(name: str, folder: str | Path) -> Path:
    """Writes a metric's module, the functions it needs, its card, its requirements and its app.

    Args:
        name: a key of `METRIC_MODULES`.
        folder: to write to; must be called as the metric is.

    Raises:
        InputError: there is no such metric, or the folder has another name.
    """
    folder = Path(folder)
    if name not in METRIC_MODULES:
        raise InputError(f"no metric {name!r}: {', '.join(METRIC_MODULES)}{nearest(name, METRIC_MODULES)}")
    if folder.name != name:
        raise InputError(
            f"the folder of the metric must be called {name!r}, not {folder.name!r}: evaluate.load needs it"
        )
    folder.mkdir(parents=True, exist_ok=True)
    for file in (f"{name}.py", "metrics.py"):
        shutil.copyfile(_HERE / file, folder / file)
    values = {"name": name, "benchmark": METRIC_MODULES[name], "example": _EXAMPLES[name]}
    (folder / "README.md").write_text(_CARD.format(**values), encoding="utf-8")
    (folder / "app.py").write_text(_APP.format(**values), encoding="utf-8")
    (folder / "requirements.txt").write_text("evaluate\nscikit-learn\nscipy\n", encoding="utf-8")
    return folder
