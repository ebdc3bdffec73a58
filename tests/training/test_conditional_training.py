"""Conditional models on the one path: resume, accumulation, what is learned, what is saved, and where it begins."""

import json
import runpy
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config

from hfssl.data.layout import LAYOUT, Layout
from hfssl.data.pairs import PackedPairs, PairCollator
from hfssl.errors import InputError
from hfssl.models.modeling_lm import language_model
from hfssl.programs import recipe
from hfssl.tokenization import load_tokenizer
from hfssl.training import PretrainingArguments, PretrainingTrainer, run
from tests.data.test_pairs import pairs_of, random_pairs
from tests.training.test_run import KillAt, assert_equal_runs, losses
from tests.without_hfssl import REFUSE_HFSSL


def trainer_of(out, train, held_out=None, callbacks=(), source_weight=0.0, dropout=0.1, **settings):
    torch.manual_seed(0)
    drop = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), dropout)
    config = GPT2Config(
        vocab_size=24, n_positions=48, n_embd=32, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0, **drop
    )
    defaults = {
        "max_steps": 12, "per_device_train_batch_size": 8, "learning_rate": 1e-2, "save_steps": 5, "logging_steps": 1,
        "use_cpu": True, "disable_tqdm": True,
    }  # fmt: skip
    return PretrainingTrainer(
        model=language_model(config),
        args=PretrainingArguments(output_dir=str(out), **(defaults | settings)),
        train_dataset=train,
        eval_dataset=held_out,
        data_collator=PairCollator(0, source_weight),
        callbacks=list(callbacks),
        files={LAYOUT: Layout().to_json()},
    )


@pytest.mark.parametrize("kind", ["buckets", "packed, source weighted, two parts"])
def test_killed_twice_equals_whole(tmp_path, kind):
    """In the first pass and in the second, in the order of the buckets, to the bit, also what evaluation says."""

    def trainer(out, callbacks=()):
        if kind == "buckets":
            return trainer_of(out, random_pairs(60, bucket=10), random_pairs(9, seed=1), callbacks, eval_steps=4,
                              eval_strategy="steps")  # fmt: skip
        packed = PackedPairs(random_pairs(60), 48)
        settings = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 4}
        return trainer_of(out, packed, random_pairs(9, seed=1), callbacks, source_weight=0.5, **settings)

    run(trainer(tmp_path / "whole"))
    for stop in (2, 8):
        with pytest.raises(SystemExit):
            run(trainer(tmp_path / "parts", [KillAt(stop)]))
    run(trainer(tmp_path / "parts"))
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")
    assert (tmp_path / "parts" / "checkpoint-10" / LAYOUT).exists()


def test_another_order_or_loss_is_another_run(tmp_path):
    run(trainer_of(tmp_path, random_pairs(60, bucket=10), max_steps=1))
    for train, weight, message in (
        (random_pairs(60, bucket=20), 0.0, "buckets of 10, now .* buckets of 20"),
        (random_pairs(60, bucket=10), 0.5, r"collator\.source_weight: None, now 0\.5"),
    ):
        with pytest.raises(InputError, match=message):
            run(trainer_of(tmp_path, train, source_weight=weight, max_steps=1))


@pytest.mark.parametrize("source_weight", [0.0, 0.5])
def test_accumulation_equals_one_big_batch(tmp_path, source_weight):
    def curve(name, **settings):
        run(trainer_of(tmp_path / name, random_pairs(60, bucket=10), source_weight=source_weight, dropout=0.0,
                       max_steps=6, **settings))  # fmt: skip
        return np.array(losses(tmp_path / name))  # step, loss, norm of the gradient

    whole = curve("whole")
    parts = curve("parts", per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert whole.shape == (6, 3)
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


def test_evaluation_is_of_the_targets_beside_their_unigram(tmp_path):
    train, held_out = random_pairs(60), random_pairs(9, seed=1)
    trainer = trainer_of(tmp_path, train, held_out, source_weight=1.0, per_device_eval_batch_size=4)
    metrics = trainer.evaluate()
    model = trainer.model.eval()
    total = count = 0.0
    for index in range(9):
        ids, source = held_out[index]["input_ids"], held_out[index]["source_length"]
        scores = model(torch.from_numpy(ids)[None]).logits[0].log_softmax(-1)
        total -= sum(scores[place - 1, ids[place]].item() for place in range(source, len(ids)))
        count += len(ids) - source
    assert metrics["eval_loss"] == pytest.approx(total / count, rel=1e-5)
    targets = np.concatenate([train[i]["input_ids"][train[i]["source_length"] :] for i in range(60)])
    shares = (np.bincount(targets, minlength=24) + 1) / (len(targets) + 24)
    held = np.concatenate([held_out[i]["input_ids"][held_out[i]["source_length"] :] for i in range(9)])
    assert metrics["eval_unigram_loss"] == pytest.approx(-np.log(shares[held]).mean())


def test_the_copy_task_is_learned_whole(tmp_path):
    """Four letters, a separator, the same four: every held-out target is written without a fault."""
    random = np.random.default_rng(0)
    rows = [(word.tolist(), word.tolist()) for word in random.integers(2, 8, (700, 4))]
    seen = {tuple(source) for source, _ in rows[:600]}
    pairs = [([*source, 1], [*target, 0]) for source, target in rows]
    held = [pair for pair in pairs[600:] if tuple(pair[0][:-1]) not in seen]
    trainer = trainer_of(
        tmp_path, pairs_of(pairs[:600]), pairs_of(held), dropout=0.0, max_steps=250, per_device_train_batch_size=64,
        learning_rate=1e-2, save_strategy="no", logging_steps=100, warmup_steps=10, lr_scheduler_type="cosine",
    )  # fmt: skip
    assert len(held) > 40 and run(trainer)["eval_accuracy"] == 1.0
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    prompts = torch.tensor([source for source, _ in held])
    written = model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=5, do_sample=False)
    assert written[:, 5:].tolist() == [target for _, target in held]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of the recipe on toy translations, and its folder."""
    out = tmp_path_factory.mktemp("conditional") / "out"
    main = runpy.run_path(str(recipe("conditional")))["main"].__wrapped__
    main(["--config", "recipes/smoke/translation.yaml", "--max_steps", "2", "--output_dir", str(out), "--use_cpu"])
    return out


def test_what_is_saved_is_stock(saved):
    """In a process without hfssl: the same bits for a prompt, by transformers alone."""
    ids = Layout.load(saved).prompt_ids(load_tokenizer(str(saved)), {"source": "The small dog."})
    code = REFUSE_HFSSL + (
        "import torch\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n"
        f"tokenizer = AutoTokenizer.from_pretrained({str(saved)!r})\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(saved)!r})\n"
        "ids = tokenizer('The small dog.<sep>')['input_ids']\n"
        "print(type(model).__name__, ids, model(torch.tensor([ids])).logits.double().sum().item())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    total = AutoModelForCausalLM.from_pretrained(saved)(torch.tensor([ids])).logits.double().sum().item()
    assert done.stdout.split("\n")[0] == f"GPT2LMHeadModel {ids} {total}"


def test_it_goes_on_from_another_model(saved, tmp_path, caplog):
    """--init_from: the weights and the tokenizer of the other, room for the new tokens, the recipe's own dropout."""
    main = runpy.run_path(str(recipe("conditional")))["main"].__wrapped__
    flags = ["--config", "recipes/smoke/commonsense.yaml", "--use_cpu", "--max_steps", "1", "--learning_rate", "1e-12"]
    flags += ["--init_from", str(saved)]
    main([*flags, "--output_dir", str(tmp_path / "out"), "--model.resid_pdrop", "0.3"])
    before, after = (AutoModelForCausalLM.from_pretrained(folder) for folder in (saved, tmp_path / "out"))
    tokenizer = load_tokenizer(str(tmp_path / "out"))
    assert len(tokenizer) == len(load_tokenizer(str(saved))) + 6 == after.config.vocab_size
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Trained for completion of commonsense, begun from another model (out, weights " in card
    with pytest.raises(InputError, match=r"model\.begun_from: .*, now None"):  # from scratch it is another run
        main([*flags[:-2], "--tokenizer", str(saved), "--output_dir", str(tmp_path / "out"),
              "--model.resid_pdrop", "0.3"])  # fmt: skip
    assert after.config.resid_pdrop == 0.3 and before.config.resid_pdrop == 0.1
    for name, weight in before.state_dict().items():
        same = after.state_dict()[name][: len(weight)]
        torch.testing.assert_close(same, weight, rtol=0, atol=1e-9, msg=name)
    for more, message in (
        (["--model.n_embd", "32"], "model.n_embd is 32 here and 64 in"),
        (["--model", "x"], "unknown argument '--model'"),
        (["--max_length", "512"], "max_length 512 is over the model's 128 positions"),
        (["--init_from", "recipes/nowhere"], "no such tokenizer folder: recipes/nowhere"),
    ):
        with pytest.raises(InputError, match=message):
            main([*flags, *more, "--output_dir", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path, capsys):
    (tmp_path / "a.en").write_text("one\ntwo\n")
    (tmp_path / "a.de").write_text("eins\n")
    main = runpy.run_path(str(recipe("conditional")))["main"]
    with pytest.raises(SystemExit) as stopped:
        main(["--pair_path", str(tmp_path / "a.en"), str(tmp_path / "a.de"), "--output_dir", str(tmp_path / "out")])
    said = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2 and len(said) == 1
    assert "a.en has 2 lines and " in said[0] and "a.de 1: line 2 has no counterpart" in said[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.distributed
def test_two_processes_equal_one_on_the_same_global_batch(run_command, accelerate_command, tmp_path):
    """Buckets, weights of the source, and parts with different numbers of targets; the world sizes are asserted."""
    common = [
        "recipes/pretrain_conditional.py", "--config", "recipes/smoke/commonsense.yaml", "--use_cpu", "--max_steps",
        "4", "--logging_steps", "1", "--save_strategy", "no", "--source_weight", "0.5", "--model.resid_pdrop", "0.0",
        "--model.embd_pdrop", "0.0", "--model.attn_pdrop", "0.0",
    ]  # fmt: skip
    runpy.run_path(str(recipe("conditional")))["main"].__wrapped__(
        [*common[1:], "--per_device_train_batch_size", "8", "--output_dir", str(tmp_path / "one")]
    )
    flags = ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", "0"]
    both = [*common, "--per_device_train_batch_size", "4", "--output_dir", tmp_path / "two"]
    done = run_command(accelerate_command, "launch", *flags, *both, env={"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    hardware = [json.loads((tmp_path / name / "run.json").read_text())["hardware"] for name in ("one", "two")]
    assert hardware[0].startswith("1 x ") and hardware[1].startswith("2 x "), "the world sizes"
    one, two = (np.array(losses(tmp_path / name)) for name in ("one", "two"))
    assert one.shape == (4, 3)
    np.testing.assert_allclose(two, one, rtol=2e-5)
