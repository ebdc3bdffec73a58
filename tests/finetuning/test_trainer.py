import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForSequenceClassification

from hfssl.errors import InputError
from hfssl.finetuning.arguments import LoopArguments
from hfssl.finetuning.batches import LengthBatches, TaskCollator, TaskLoader, make_targets
from hfssl.finetuning.encoding import TaskEncoder
from hfssl.finetuning.heads import choose_head, load_model
from hfssl.finetuning.loop import decode, training_arguments
from hfssl.finetuning.losses import item_losses
from hfssl.finetuning.outcome import _finite
from hfssl.finetuning.recipes import RECIPES, Settings, find_recipe
from hfssl.finetuning.sources import open_source
from hfssl.finetuning.stock import stock_fine_tune
from hfssl.finetuning.trainer import TaskTrainer, predict


def test_losses_of_each_kind():
    torch.manual_seed(0)
    logits, classes = torch.randn(5, 3, dtype=torch.float64), torch.tensor([0, 2, 1, 1, 0])
    assert torch.allclose(item_losses(logits, classes).mean(), F.cross_entropy(logits, classes))
    scores = torch.randn(5, dtype=torch.float64)
    assert torch.allclose(item_losses(logits[:, :1], scores).mean(), F.mse_loss(logits[:, 0], scores))
    assert len(item_losses(torch.cat([logits, logits]), classes)) == 5  # rows that fill up a static shape
    # Two items of 3 and 2 candidates; the first has two right ones.
    groups = torch.tensor([[0, 1, 2], [3, 4, -1]])
    right = torch.tensor([[True, False, True], [False, True, False]])
    found = item_losses(logits[:, :1], right, groups)
    one, two = logits[:3, 0].softmax(0), logits[3:, 0].softmax(0)
    wanted = [-math.log(one[0] + one[2]), -math.log(two[1])]
    assert found.tolist() == pytest.approx(wanted, rel=1e-12)
    choice = item_losses(logits[:4, :1], torch.tensor([[True, False], [False, True]]), torch.tensor([[0, 1], [2, 3]]))
    assert torch.allclose(choice, F.cross_entropy(logits[:4, 0].view(2, 2), torch.tensor([0, 1]), reduction="none"))
    padded = logits[:, :1].clone().requires_grad_()
    item_losses(padded, right, groups).sum().backward()
    assert padded.grad.isfinite().all()


def trainer_for(
    folder, toy, key, tmp_path, parts=1, pool=64, epochs=1.0, double=True, rows=None, strategy=None, dropout=0.0,
    **settings,
):  # fmt: skip
    task, splits = toy(key)
    source = open_source(str(folder))
    head = choose_head(source, task)
    model = load_model(source, task, head, seed=0)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = dropout
    model.config.attention_probs_dropout_prob = dropout
    model = model.double() if double else model
    settings = Settings(**{"learning_rate": 1e-3, "batch_size": 16, "epochs": epochs, "warmup": 0.0,
                           "weight_decay": 0.0} | settings)  # fmt: skip
    args = training_arguments(settings, LoopArguments(gradient_accumulation_steps=parts), 0, tmp_path)
    encoded = TaskEncoder(source.tokenizer, 64, source.takes_types).encode(splits["train"])
    targets = make_targets(splits["train"], head.order)
    collator = TaskCollator(encoded, targets, source.tokenizer.pad_token_id, task.kind == "choice", rows=rows)
    loader = TaskLoader(LengthBatches(encoded.item_lengths, 16, 0, parts, pool), collator)
    return TaskTrainer(model, args, loader, strategy=strategy, task=task), model, loader


@pytest.mark.parametrize("key", ["glue/mnli", "glue/stsb", "superglue/copa"])
def test_an_update_is_the_same_in_however_many_parts(bert_folder, toy, tmp_path, key):
    """Stock heads in Trainer are wrong by the number of parts; here the weights after an epoch agree, whatever it is.
    200, 400 and 600 items in batches of 16: the last one is not full."""
    found = []
    for parts in (1, 4):
        trainer, model, _ = trainer_for(bert_folder, toy, key, tmp_path, parts, epochs=0.2, max_grad_norm=0.5)
        trainer.train()
        found.append((trainer.state.global_step, trainer.losses[0], model.classifier.weight.detach().clone()))
    assert found[0][0] == found[1][0]
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)  # gathered in float32
    assert torch.allclose(found[0][2], found[1][2], rtol=1e-7, atol=1e-12)


def test_bucketing_changes_neither_the_updates_nor_the_gradient_of_a_batch(bert_folder, toy, tmp_path):
    """The same items in one batch, padded to their longest, to a static width with filled-up rows, and one by one."""
    trainer, model, loader = trainer_for(bert_folder, toy, "glue/rte", tmp_path)
    plain, _, _ = trainer_for(bert_folder, toy, "glue/rte", tmp_path, pool=0)
    assert trainer.set_initial_training_values(trainer.args, loader)[-1] == 19  # ceil(300 / 16)
    assert plain.set_initial_training_values(plain.args, plain.get_train_dataloader())[-1] == 19
    keys = [3, 77, 150, 299]
    collator = loader.collate_fn
    static = TaskCollator(collator.encoded, collator.targets, collator.pad_id, rows=6)
    gradients = []
    for batches in ([collator(keys)], [static(keys)], [collator([key]) for key in keys]):
        model.zero_grad()
        for batch in batches:
            trainer.compute_loss(model, batch, num_items_in_batch=torch.tensor(4)).backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
    assert gradients[0].norm() > 0
    for gradient in gradients[1:]:
        assert torch.allclose(gradients[0], gradient, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("folder", ["bert_folder", "gpt_folder"])
def test_predictions_do_not_depend_on_the_batch_and_come_in_the_order_of_the_rows(folder, toy, request):
    """Against the stock model on one row at a time, without any padding. GPT pads with its end token."""
    source = open_source(str(request.getfixturevalue(folder)))
    task, splits = toy("glue/rte")
    model = load_model(source, task, choose_head(source, task), seed=0).double()
    encoded = TaskEncoder(source.tokenizer, 64, source.takes_types).encode(splits["validation"])
    found = predict(model, encoded, source.tokenizer.pad_token_id)
    assert found.shape == (100, 2)
    model.eval()
    with torch.no_grad():
        for row in range(0, 100, 9):
            text = tuple(texts[row] for texts in splits["validation"].texts)
            alone = source.tokenizer(*text, truncation=True, max_length=64, return_tensors="pt")
            assert np.allclose(model(**alone).logits.numpy(), found[row], rtol=1e-5, atol=1e-6)
    assert found.std(axis=0).min() > 1e-2  # rows do differ


def test_the_clock_and_the_tokens(bert_folder, toy, tmp_path):
    trainer, _, loader = trainer_for(bert_folder, toy, "glue/mnli", tmp_path, epochs=2, double=False)
    trainer.train()
    lengths = loader.collate_fn.encoded.row_lengths
    assert int(trainer.real_tokens) == 2 * lengths.sum() and trainer.state.global_step == 2 * 38
    assert 1 <= trainer.padding_ratio <= 1.08 and trainer.train_seconds > 0 and len(trainer.losses) == 2


def test_a_run_that_diverges_ends_and_says_so(tune, bert_folder):
    found = tune(bert_folder, "glue/rte", epochs=3, learning_rate=1e30, warmup=0.0)
    assert found.record["updates"] < 3 * 10
    assert any(flag.startswith("diverged: the loss was not finite") for flag in found.record["flags"])
    assert found.record["epochs"][-1]["loss"] is None


def test_a_score_that_diverged_is_written_as_a_number(tune, bert_folder, toy):
    found = tune(bert_folder, "glue/stsb", epochs=1, learning_rate=1e30, warmup=0.0)
    splits = toy("glue/stsb")[1]
    said = decode(splits["test"], found.logits["test"], ("score",))
    assert not np.isfinite(said).any() and found.record["scores"] == {"pearson": 0.0, "spearmanr": 0.0}
    assert set(_finite(said)) == {0.0}


def test_a_frozen_encoder_stays_as_it_was_and_the_head_learns(tune, bert_folder):
    found = tune(bert_folder, "glue/rte", freeze_encoder=True, max_steps=3)
    before = AutoModelForSequenceClassification.from_pretrained(bert_folder).bert.state_dict()
    assert all(torch.equal(weight, found.model.bert.state_dict()[name]) for name, weight in before.items())
    assert found.record["trained_parameters"] == 2 * 32 + 2
    untrained = tune(bert_folder, "glue/rte", freeze_encoder=True, max_steps=3, learning_rate=1e-30)
    assert not torch.equal(found.model.classifier.weight, untrained.model.classifier.weight)


def test_of_a_frozen_encoder_what_the_checkpoint_lacks_is_trained(tune, toy, bert_folder, tmp_path):
    """A masked language model has no pooler: a random one would feed the head noise."""
    from transformers import BertForMaskedLM

    source = open_source(str(bert_folder))
    BertForMaskedLM(source.config).save_pretrained(tmp_path / "mlm")
    source.tokenizer.save_pretrained(tmp_path / "mlm")
    model = load_model(open_source(str(tmp_path / "mlm")), toy("glue/rte")[0],
                       choose_head(source, toy("glue/rte")[0]), 0, freeze_encoder=True)  # fmt: skip
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {
        "bert.pooler.dense.weight", "bert.pooler.dense.bias", "classifier.weight", "classifier.bias",
    }  # fmt: skip


def test_the_chosen_epoch_is_the_one_whose_weights_stay(tune, bert_folder, toy):
    """Predictions of the returned model are those that were scored best; `last` takes the last epoch."""
    splits = toy("glue/rte")[1]
    source = open_source(str(bert_folder))
    encoded = TaskEncoder(source.tokenizer, 64, source.takes_types).encode(splits["validation"])
    for selection in ("best", "last"):
        found = tune(bert_folder, "glue/rte", epochs=4, learning_rate=3e-3, selection=selection)
        scores = [epoch["score"] for epoch in found.record["epochs"]]
        chosen = scores.index(max(scores)) if selection == "best" else 3
        assert found.record["epoch"] == chosen + 1 and found.record["score"] == scores[chosen]
        again = predict(found.model, encoded, source.tokenizer.pad_token_id)
        assert np.allclose(again, found.logits["validation"], atol=1e-5)


def test_the_plain_way_does_the_same_work_with_more_padding(tune, bert_folder, toy, tmp_path):
    """The peer of the benchmark: as many updates, the same model at the start (a learning rate of 0 moves nothing)."""
    task, splits = toy("glue/rte")
    source = open_source(str(bert_folder))
    settings = RECIPES["scratch"].settings(task, epochs=1, learning_rate=1e-30)
    args = training_arguments(settings, LoopArguments(), 0, tmp_path)
    plain = stock_fine_tune(source, task, splits, choose_head(source, task), args, length=64)
    ours = tune(bert_folder, "glue/rte", epochs=1, learning_rate=1e-30).record
    assert plain["updates"] == ours["updates"] == 10 and plain["score"] == pytest.approx(ours["score"])


def test_recipes_are_rows_and_what_is_given_wins(toy):
    task, _ = toy("glue/rte")
    name, recipe = find_recipe("auto", "roberta")
    assert name == "roberta" and recipe.settings(task).learning_rate == 2e-5
    assert recipe.settings(toy("glue/qqp")[0]).warmup == pytest.approx(28318 / 113272)
    assert find_recipe("auto", "bert")[0] == find_recipe("auto", "gpt2")[0] == "bert"
    assert find_recipe("auto", "bert", pretrained=False)[0] == "scratch"
    given = recipe.settings(task, epochs=1, learning_rate=None)
    assert (given.epochs, given.learning_rate, given.adam_beta2) == (1, 2e-5, 0.98)
    assert repr(recipe.settings(task, epochs=3)) == repr(recipe.settings(task, epochs=3.0)), "they name one job"
    trials = RECIPES["bert"].trials(task)
    assert len(trials) == 24 and trials[0] == RECIPES["bert"].settings(task)
    assert len({(trial.learning_rate, trial.batch_size, trial.epochs) for trial in trials}) == 24
    assert {trial.batch_size for trial in RECIPES["bert"].trials(task, batch_size=8)} == {8}
    with pytest.raises(InputError, match=r"no recipe 'robreta'.*did you mean 'roberta'"):
        find_recipe("robreta", "bert")
