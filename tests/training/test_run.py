"""The one path: resume, train, evaluate, save. On a GPT of a few thousand parameters."""

import errno
import json
import os
import signal
import sys
import typing

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    BertForTokenClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    TrainerCallback,
)

from hfssl.data.blocks import CausalCollator
from hfssl.data.masking import IGNORED
from hfssl.errors import InputError
from hfssl.models.modeling_lm import language_model
from hfssl.training import PretrainingArguments, PretrainingTrainer, run
from hfssl.training.checkpoint import checkpoints, newest, step_of, weights_digest


class Counting(Dataset):
    """Blocks that count upwards: something a tiny model learns at once."""

    source = fingerprint = "counting"

    def __init__(self, size=40, length=16, vocab=24):
        self.size, self.length, self.vocab = size, length, vocab

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        return {"input_ids": (index + np.arange(self.length)) % self.vocab, "index": index}


def tiny_gpt(dropout=0.0):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=24, n_positions=16, n_embd=16, n_layer=2, n_head=2, resid_pdrop=dropout, embd_pdrop=dropout,
        attn_pdrop=dropout, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config)


def trainer_for(out, model=None, callbacks=(), size=40, **arguments):
    settings = {
        "max_steps": 12, "per_device_train_batch_size": 4, "learning_rate": 1e-2, "save_steps": 4, "logging_steps": 1,
        "use_cpu": True, "disable_tqdm": True, "warmup_steps": 2,
    }  # fmt: skip
    return PretrainingTrainer(
        model=model or tiny_gpt(),
        args=PretrainingArguments(output_dir=str(out), **(settings | arguments)),
        train_dataset=Counting(size),
        eval_dataset=Counting(8),
        data_collator=CausalCollator(),
        callbacks=list(callbacks),
    )


class KillAt(TrainerCallback):
    """Sends this process a signal at the end of a step."""

    def __init__(self, step, number=signal.SIGTERM):
        self.step, self.number = step, number

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            os.kill(os.getpid(), self.number)


def weights(folder):
    return AutoModelForCausalLM.from_pretrained(folder).state_dict()


def losses(folder):
    history = json.loads((folder / "log_history.json").read_text())
    return [(entry["step"], entry["loss"], entry["grad_norm"]) for entry in history if "loss" in entry]


def test_it_learns_saves_and_can_be_loaded(tmp_path):
    trainer = trainer_for(tmp_path / "out", max_steps=60)
    metrics = run(trainer)
    assert metrics["eval_loss"] < 1.0 < np.log(24)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    ids = torch.arange(10)[None]
    assert torch.equal(loaded(ids).logits, trainer.model.eval()(ids).logits)
    assert {"config.json", "model.safetensors", "run.json", "README.md", "log_history.json"} <= {
        path.name for path in (tmp_path / "out").iterdir()
    }
    assert not list((tmp_path / "out").rglob("training_args.bin")), "a pickle"
    modes = {path.stat().st_mode for path in (tmp_path / "out").rglob("*.*") if path.is_file()}
    assert len(modes) == 1, "whoever may read the config may read the weights"
    assert len(checkpoints(tmp_path / "out")) == 2


def assert_equal_runs(first, second):
    """Weights, optimizer, schedule, and everything that was logged but the speed."""
    one, other = weights(first), weights(second)
    assert all(torch.equal(one[name], other[name]) for name in one)
    for name in ("optimizer.pt", "scheduler.pt"):
        states = [torch.load(newest(folder) / name, weights_only=True) for folder in (first, second)]
        assert_same(*states)
    assert losses(first) == losses(second)


def assert_same(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            assert_same(*pair)
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    else:
        assert one == other


class KillInMicroStep(Counting):
    """Sends a signal when a sample of the given position is read the first time: between two micro-batches."""

    def __init__(self, read, number=signal.SIGTERM, **kwargs):
        super().__init__(**kwargs)
        self.left, self.number = read, number

    def __getitem__(self, index):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)
        return super().__getitem__(index)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("logging", [1, 5])
@pytest.mark.parametrize("read", [2, 90, 150])
def test_stopped_within_a_step_and_resumed_equals_uninterrupted(tmp_path, dropout, logging, read):
    """Four micro-batches of four: the signal comes before, in and after the first epoch's end, at most one is run."""
    settings = {"gradient_accumulation_steps": 4, "logging_steps": logging, "save_steps": 100}
    run(trainer_for(tmp_path / "whole", tiny_gpt(dropout), **settings))
    trainer = trainer_for(tmp_path / "parts", tiny_gpt(dropout), **settings)
    trainer.train_dataset = KillInMicroStep(read)
    with pytest.raises(SystemExit) as stopped:
        run(trainer)
    assert stopped.value.code == 128 + signal.SIGTERM
    done = trainer.state.global_step
    assert [step_of(path) for path in checkpoints(tmp_path / "parts")] == ([done] if done else [])
    torch.manual_seed(99)
    run(trainer_for(tmp_path / "parts", tiny_gpt(dropout), **settings))
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


def test_stopped_in_an_evaluation_and_resumed_equals_uninterrupted(tmp_path, monkeypatch):
    settings = {"eval_strategy": "steps", "eval_steps": 3, "save_steps": 100, "per_device_eval_batch_size": 2}
    run(trainer_for(tmp_path / "whole", tiny_gpt(0.1), **settings))
    trainer = trainer_for(tmp_path / "parts", tiny_gpt(0.1), **settings)
    trainer.eval_dataset = KillInMicroStep(8 + 3, size=8)  # in the second evaluation
    with pytest.raises(SystemExit):
        run(trainer)
    assert trainer.state.global_step == 6 and newest(tmp_path / "parts").name == "checkpoint-6"
    torch.manual_seed(99)
    run(trainer_for(tmp_path / "parts", tiny_gpt(0.1), **settings))
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    histories = [json.loads((tmp_path / name / "log_history.json").read_text()) for name in ("whole", "parts")]
    whole, parts = ([(e["step"], e["eval_loss"]) for e in history if "eval_loss" in e] for history in histories)
    assert whole == parts and len(whole) == 5


def test_a_signal_in_the_last_evaluation_leaves_with_a_message(tmp_path, caplog):
    trainer = trainer_for(tmp_path / "out")
    trainer.eval_dataset = KillInMicroStep(1, number=signal.SIGINT, size=8)
    with caplog.at_level("INFO"), pytest.raises(SystemExit) as stopped:
        run(trainer)
    assert stopped.value.code == 130 and "Stopped by SIGINT after step 12" in caplog.text
    metrics = run(trainer_for(tmp_path / "out"))
    run(trainer_for(tmp_path / "whole"))
    assert metrics["eval_loss"] > 0
    assert_equal_runs(tmp_path / "whole", tmp_path / "out")


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("step", [4, 11])
def test_a_stop_comes_at_the_end_of_the_step_or_forgets_it(tmp_path, accumulation, step):
    """A checkpoint was due after step 4. Which runs resume to the bit: test_resume.py."""
    settings, dropout = {"gradient_accumulation_steps": accumulation}, 0.1
    run(trainer_for(tmp_path / "whole", tiny_gpt(dropout), **settings))
    with pytest.raises(SystemExit) as stopped:
        run(trainer_for(tmp_path / "parts", tiny_gpt(dropout), [KillAt(step)], **settings))
    assert stopped.value.code == 128 + signal.SIGTERM
    whole_steps = step + 1 if accumulation == 1 else step  # with more micro-batches it does not wait for the last
    assert newest(tmp_path / "parts").name == f"checkpoint-{whole_steps}"
    torch.manual_seed(99)  # a new process would not have the old one's random state
    run(trainer_for(tmp_path / "parts", tiny_gpt(dropout), **settings))
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


class Recording(Counting):
    def __init__(self):
        super().__init__(size=40)
        self.seen = []

    def __getitem__(self, index):
        self.seen.append(index)
        return super().__getitem__(index)


def test_another_global_batch_goes_on_at_the_same_sample(tmp_path):
    """Ten steps of 4 samples cover the data once; three of 4 and then fourteen of 2 do, too, in the same order."""
    orders = []
    for parts in ([(4, 10)], [(4, 3), (2, 17)]):
        out, seen = tmp_path / str(len(parts)), []
        for batch, steps in parts:
            trainer = trainer_for(out, per_device_train_batch_size=batch, max_steps=steps, resume=True)
            trainer.train_dataset = Recording()
            run(trainer)
            seen += trainer.train_dataset.seen
        orders.append(seen)
    assert orders[0] == orders[1] and sorted(orders[0]) == list(range(40))


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize(("first", "second"), [(4, 2), (2, 4)])
def test_another_global_batch_ends_with_the_same_pass_over_the_data(tmp_path, first, second, again, caplog):
    """A pass is 40 samples, so many steps as that takes: twice as many of half the size, half as many of twice.

    Also if the second part is stopped and goes on with its own batch.
    """
    seen = []
    for batch, callbacks in ((first, [KillAt(4)]), *([(second, [KillAt(6)])] if again else []), (second, [])):
        settings = {"max_steps": -1, "num_train_epochs": 1, "per_device_train_batch_size": batch, "resume": True}
        trainer = trainer_for(tmp_path / "out", callbacks=callbacks, **settings)
        trainer.train_dataset = Recording()
        if callbacks:
            with pytest.raises(SystemExit):
                run(trainer)
        else:
            run(trainer)
        seen += trainer.train_dataset.seen
    rest = -(-(40 - 5 * first) // second)  # the last step may begin the next pass
    assert set(seen) == set(range(40)) and len(seen) == 5 * first + rest * second
    assert trainer.state.global_step == 5 + rest
    assert f"The global batch was {first} samples and is now {second}" in caplog.text


def test_a_signal_in_the_last_evaluation_of_a_run_without_checkpoints(tmp_path):
    trainer = trainer_for(tmp_path / "out", save_strategy="no")
    trainer.eval_dataset = KillInMicroStep(1, size=8)
    with pytest.raises(SystemExit):
        run(trainer)
    assert newest(tmp_path / "out").name == "checkpoint-12"
    again = trainer_for(tmp_path / "out", save_strategy="no")
    again.train_dataset = Recording()
    assert run(again)["eval_loss"] > 0 and not again.train_dataset.seen, "nothing is trained again"


def test_broken_weights_are_not_saved_as_a_model(tmp_path):
    class Break(TrainerCallback):
        def on_step_end(self, args, state, control, model=None, **kwargs):
            if state.global_step == 12:
                model.transformer.wte.weight.data[0, 0] = float("nan")

    trainer = trainer_for(tmp_path / "out", callbacks=[Break()], save_strategy="no", logging_steps=5)
    trainer.eval_dataset = None
    with pytest.raises(InputError, match="a weight is not finite at step 12; there is no earlier checkpoint"):
        run(trainer)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    assert not json.loads((tmp_path / "out" / "run.json").read_text()).get("finished")


def test_a_folder_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write to .*file/out: .*file is read-only or no folder"):
        trainer_for(tmp_path / "file" / "out")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write everywhere
    with pytest.raises(InputError, match=r"cannot write to .*out/deep: .* is read-only"):
        trainer_for(tmp_path / "out" / "deep")
    assert not (tmp_path / "out").exists()


def test_label_smoothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="--label_smoothing_factor is not for pretraining"):
        trainer_for(tmp_path / "out", label_smoothing_factor=0.1)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_missing_state_is_refused_unless_allowed(tmp_path, name):
    """What is there counts: a lost schedule goes on at its step, and a lost optimizer begins anew at that rate."""
    settings = {"lr_scheduler_type": "linear", "warmup_steps": 4, "logging_steps": 1}
    run(trainer_for(tmp_path / "whole", max_steps=20, **settings))
    with pytest.raises(SystemExit):
        run(trainer_for(tmp_path / "out", callbacks=[KillAt(11)], max_steps=20, **settings))
    done = step_of(newest(tmp_path / "out"))
    (newest(tmp_path / "out") / name).unlink()
    with pytest.raises(InputError, match=rf"checkpoint-{done} has no .*--allow_partial_resume"):
        run(trainer_for(tmp_path / "out", max_steps=20, resume=True, **settings))
    trainer = trainer_for(tmp_path / "out", max_steps=20, resume=True, allow_partial_resume=True, **settings)
    run(trainer)
    rates = [
        [
            entry["learning_rate"]
            for entry in json.loads((tmp_path / out / "log_history.json").read_text())
            if "loss" in entry
        ]
        for out in ("whole", "out")
    ]
    assert rates[0] == pytest.approx(rates[1]) and len(rates[0]) == 20
    updates = {int(state["step"]) for state in trainer.optimizer.state_dict()["state"].values()}
    assert updates == {20 - done if name == "optimizer.pt" else 20}


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew_in_silence(tmp_path):
    run(trainer_for(tmp_path / "out"))
    for checkpoint in checkpoints(tmp_path / "out"):
        (checkpoint / "model.safetensors").write_bytes(b"")
    for _ in range(2):  # the second time they are aside already
        with pytest.raises(InputError, match=r"no checkpoint in .* is whole .*--overwrite"):
            run(trainer_for(tmp_path / "out", max_steps=14, resume=True))


def test_other_data_only_if_allowed(tmp_path):
    run(trainer_for(tmp_path / "out"))
    for allow in (False, True):
        trainer = trainer_for(tmp_path / "out", max_steps=14, resume=True, allow_data_change=allow)
        trainer.train_dataset.fingerprint = "other"
        if allow:
            run(trainer)
        else:
            with pytest.raises(InputError, match=r"data: counting, now other.*--allow_data_change"):
                run(trainer)


def test_another_mask_is_another_run(tmp_path):
    class Collator(CausalCollator):
        identity: typing.ClassVar = {"share": 0.15}

    run(trainer_for(tmp_path / "out"))
    trainer = trainer_for(tmp_path / "out")
    trainer.data_collator = Collator()
    with pytest.raises(InputError, match=r"another run \(collator.share: None, now 0.15\); --resume goes on"):
        run(trainer)


@pytest.mark.parametrize("content", ["{", "[]", '{"finished": true}'])
def test_a_damaged_record_of_the_run(tmp_path, content):
    run(trainer_for(tmp_path / "out"))
    (tmp_path / "out" / "run.json").write_text(content)
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"run.json is damaged or not of hfssl"):
            run(trainer_for(tmp_path / "out", overwrite=overwrite))
    assert (tmp_path / "out" / "model.safetensors").exists()


def test_overwrite_does_not_delete_the_folder_one_stands_in(tmp_path, monkeypatch):
    run(trainer_for(tmp_path / "out"))
    (tmp_path / "out" / "inner").mkdir()
    monkeypatch.chdir(tmp_path / "out" / "inner")
    with pytest.raises(InputError, match="--overwrite does not delete"):
        run(trainer_for(tmp_path / "out", overwrite=True))
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize("broken", ["write_model_card", "write_whole"])
def test_a_disk_that_fills_up_at_the_very_end(tmp_path, monkeypatch, broken):
    def full(path, *args):
        if broken == "write_whole" and not json.loads(args[0])["finished"]:
            return path.write_text(args[0])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(sys.modules["hfssl.training.run"], broken, full)
    with pytest.raises(InputError, match=r"No space left on device; the last good checkpoint is .*checkpoint-12"):
        run(trainer_for(tmp_path / "out"))
    monkeypatch.undo()
    trainer = trainer_for(tmp_path / "out")
    run(trainer)  # and then there is room again
    assert trainer.state.global_step == 12 and json.loads((tmp_path / "out" / "run.json").read_text())["finished"]


def test_the_record_has_the_digest_of_the_trained_weights(tmp_path):
    trainer = trainer_for(tmp_path / "out")
    run(trainer)
    recorded = json.loads((tmp_path / "out" / "run.json").read_text())["weights"]
    loaded = GPT2LMHeadModel.from_pretrained(tmp_path / "out")
    assert weights_digest(trainer.model) == recorded == weights_digest(loaded)
    loaded.transformer.ln_f.bias.data[0] += 1e-6
    assert weights_digest(loaded) != recorded


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint(tmp_path):
    class Break(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 6:
                model.transformer.wte.weight.data[0, 0] = float("nan")

    with pytest.raises(InputError, match=r"not finite at step .*; the last good checkpoint is .*checkpoint-4"):
        run(trainer_for(tmp_path / "out", callbacks=[Break()], logging_steps=3))
    assert [path.name for path in checkpoints(tmp_path / "out")] == ["checkpoint-4"]


def test_finished_says_so_and_trains_no_more(tmp_path, caplog):
    first = run(trainer_for(tmp_path / "out"))
    trainer = trainer_for(tmp_path / "out")
    with caplog.at_level("INFO"):
        assert run(trainer) == first
    assert "finished already" in caplog.text
    assert trainer.state.global_step == 0


def test_another_run_in_the_folder(tmp_path):
    run(trainer_for(tmp_path / "out"))
    with pytest.raises(InputError, match=r"holds another run \(arguments.learning_rate: 0.01, now 0.02\); --resume"):
        run(trainer_for(tmp_path / "out", learning_rate=2e-2))
    with pytest.raises(InputError, match=r"model.n_embd: 16, now 8\); --overwrite"):
        run(
            trainer_for(
                tmp_path / "out",
                GPT2LMHeadModel(
                    GPT2Config(
                        vocab_size=24,
                        n_embd=8,
                        n_layer=2,
                        n_head=2,
                        n_positions=16,
                        resid_pdrop=0.0,
                        embd_pdrop=0.0,
                        attn_pdrop=0.0,
                        bos_token_id=0,
                        eos_token_id=0,
                    )
                ),
            )
        )
    longer = trainer_for(tmp_path / "out", max_steps=14, resume=True)
    run(longer)
    assert longer.state.global_step == 14 and [step for step, *_ in losses(tmp_path / "out")] == list(range(1, 15))
    anew = trainer_for(tmp_path / "out", learning_rate=2e-2, overwrite=True, max_steps=3)
    run(anew)
    assert [step for step, *_ in losses(tmp_path / "out")] == [1, 2, 3]


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("three years")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not empty and holds no run"):
            run(trainer_for(tmp_path, overwrite=overwrite))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_damaged_checkpoint_is_passed_over_and_the_result_is_the_same(tmp_path):
    run(trainer_for(tmp_path / "whole"))
    with pytest.raises(SystemExit):
        run(trainer_for(tmp_path / "parts", callbacks=[KillAt(6)]))
    (tmp_path / "parts" / "checkpoint-7" / "optimizer.pt").write_bytes(b"half")
    run(trainer_for(tmp_path / "parts"))
    assert (tmp_path / "parts" / "damaged-checkpoint-7").is_dir()
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    out, save = tmp_path / "out", torch.save

    def full(value, path, *args, **kwargs):
        if "checkpoint-8" in str(path):
            raise OSError(28, "No space left on device")
        return save(value, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"cannot save .*checkpoint-8: .*No space left.*last good checkpoint is .*-4"):
        run(trainer_for(out))
    assert [path.name for path in sorted(out.glob("*checkpoint-*"))] == ["checkpoint-4"]
    assert not list(out.glob(".checkpoint*"))
    monkeypatch.undo()
    run(trainer_for(out))
    assert json.loads((out / "run.json").read_text())["finished"]


def test_a_batch_larger_than_the_data(tmp_path):
    with pytest.raises(InputError, match="a batch of 64 is larger than the data, 40 samples"):
        run(trainer_for(tmp_path / "out", per_device_train_batch_size=64))


def test_workers_change_nothing(tmp_path):
    run(trainer_for(tmp_path / "alone", max_steps=12))
    run(trainer_for(tmp_path / "two", max_steps=12, dataloader_num_workers=2))
    assert losses(tmp_path / "alone") == losses(tmp_path / "two")


class Blanks:
    """Of sample i the first 1 + i % 4 tokens are to be predicted: parts of a step then differ in their number."""

    def __call__(self, items):
        ids = torch.from_numpy(np.stack([item["input_ids"] for item in items]))
        counts = torch.tensor([1 + item["index"] % 4 for item in items])
        labels = ids.masked_fill(torch.arange(ids.shape[1]) >= counts[:, None], IGNORED)
        return {"input_ids": ids, "labels": labels}


class Classes:
    """A label for each block: a class, a number, or a class for each token."""

    def __init__(self, kind):
        self.kind = kind

    def __call__(self, items):
        ids = torch.from_numpy(np.stack([item["input_ids"] for item in items]))
        labels = {"classes": ids[:, 0] % 3, "number": ids[:, 0] / 10.0, "tokens": ids % 3}[self.kind]
        return {"input_ids": ids, "labels": labels}


SMALL_BERT = {
    "vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
}  # fmt: skip


def model_with_head(kind):
    torch.manual_seed(0)
    config, gpt = BertConfig(**SMALL_BERT), tiny_gpt().config
    config.num_labels = gpt.num_labels = 1 if kind.endswith("number") else 3
    gpt.pad_token_id = 23
    if kind == "gpt":
        return tiny_gpt(), Blanks()
    if kind == "ours gpt":
        return language_model(gpt), Blanks()
    if kind == "bert":
        return BertForMaskedLM(config), Blanks()
    if kind == "ours bert":
        return language_model(config), Blanks()
    if kind == "gpt classes":
        return GPT2ForSequenceClassification(gpt), Classes("classes")
    if kind == "tokens":
        return BertForTokenClassification(config), Classes("tokens")
    return BertForSequenceClassification(config), Classes(kind)


@pytest.mark.parametrize("kind", ["gpt", "ours gpt", "bert", "ours bert", "classes", "number", "tokens", "gpt classes"])
def test_accumulation_leaves_loss_and_gradient_as_they_are(tmp_path, kind):
    """One step on 16 samples, whole and in 2 and 8 parts (stock heads in Trainer: eight times too large at 8)."""
    found = []
    for parts in (1, 2, 8):
        model, collator = model_with_head(kind)
        trainer = trainer_for(
            tmp_path / f"{kind}{parts}", model.double(), max_steps=1, per_device_train_batch_size=16 // parts,
            gradient_accumulation_steps=parts, max_grad_norm=1e9,
        )  # fmt: skip
        trainer.data_collator, trainer.eval_dataset = collator, None
        if kind == "number":
            trainer.data_collator = lambda items, make=collator: {
                name: value.double() if name == "labels" else value for name, value in make(items).items()
            }
        run(trainer)
        found.append(losses(tmp_path / f"{kind}{parts}")[0][1:])
    assert np.allclose(found, found[0], rtol=1e-6), found
    with torch.no_grad():  # and the loss is the plain mean of the model's own on the whole batch
        model, collator = model_with_head(kind)
        order = trainer.get_train_dataloader()
        batches = [batch for batch, _ in zip(order, range(8), strict=False)]
        whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        assert float(model.double()(**whole).loss) == pytest.approx(found[0][0], rel=1e-6)


def test_a_classifier_whose_head_is_called_score_is_evaluated_as_one(tmp_path):
    model, collator = model_with_head("gpt classes")
    trainer = trainer_for(tmp_path, model, per_device_eval_batch_size=8)
    trainer.data_collator, trainer.eval_dataset = collator, Counting(8)
    found = trainer.evaluate()
    with torch.no_grad():
        expected = float(model.eval()(**collator([trainer.eval_dataset[index] for index in range(8)])).loss)
    assert found["eval_loss"] == pytest.approx(expected, rel=1e-5) and "eval_perplexity" not in found


@pytest.mark.parametrize("kind", ["ours gpt", "ours bert"])
def test_every_checkpoint_folder_is_a_model(tmp_path, kind):
    model, collator = model_with_head(kind)
    trainer = trainer_for(tmp_path, model, save_steps=6)
    trainer.data_collator, trainer.eval_dataset = collator, None
    run(trainer)
    auto = AutoModelForCausalLM if kind == "ours gpt" else AutoModelForMaskedLM
    found = [
        auto.from_pretrained(folder) for folder in (tmp_path / "checkpoint-6", tmp_path / "checkpoint-12", tmp_path)
    ]
    assert all(type(each) is model.stock for each in found)
    states = [each.state_dict() for each in found]
    assert all(torch.equal(states[1][name], states[2][name]) for name in states[2])
    assert not all(torch.equal(states[0][name], states[2][name]) for name in states[2])
