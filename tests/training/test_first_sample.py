"""A run that takes over from another in the data: it sees what the other would have seen next, also after a resume."""

import json

import pytest

from hfssl.data.blocks import CausalCollator
from hfssl.errors import InputError
from hfssl.training import PretrainingArguments, PretrainingTrainer, run
from tests.training.test_run import Counting, KillAt, tiny_gpt


class Seen(CausalCollator):
    """Notes which samples it was given."""

    def __init__(self):
        self.samples = []

    def __call__(self, items):
        self.samples += [(item["epoch"], item["index"]) for item in items]
        return super().__call__(items)


def make_trainer(out, steps, first_sample=0, callbacks=()):
    settings = {"max_steps": steps, "per_device_train_batch_size": 4, "save_steps": 2, "seed": 5}
    args = PretrainingArguments(output_dir=str(out), use_cpu=True, disable_tqdm=True, **settings)
    return PretrainingTrainer(
        tiny_gpt(), args, Counting(22), first_sample=first_sample, data_collator=Seen(), callbacks=list(callbacks)
    )


def test_it_begins_where_the_other_ended(tmp_path):
    whole, first, second = (make_trainer(tmp_path / str(n), *more) for n, more in enumerate([(9,), (4,), (5, 16)]))
    for trainer in (whole, first, second):
        run(trainer)
    seen = [trainer.data_collator.samples for trainer in (whole, first, second)]
    assert seen[0] == seen[1] + seen[2] and len(set(seen[0])) == 36, "over the end of a pass, no sample twice"


def test_it_is_resumed_there_and_is_another_run(tmp_path):
    run(make_trainer(tmp_path / "whole", 5, 16))
    with pytest.raises(SystemExit):
        run(make_trainer(tmp_path / "parts", 5, 16, [KillAt(3)]))
    with pytest.raises(InputError, match=r"holds another run \(arguments.first_sample: 16, now None\)"):
        run(make_trainer(tmp_path / "parts", 5))
    resumed = make_trainer(tmp_path / "parts", 5, 16)
    run(resumed)
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("whole", "parts")]
    assert records[0]["weights"] == records[1]["weights"]
    assert records[0]["arguments"]["first_sample"] == 16
    fresh = make_trainer(tmp_path / "fresh", 5)
    run(fresh)
    assert json.loads((tmp_path / "fresh" / "run.json").read_text())["weights"] != records[0]["weights"]
