"""Optimizers by name: which weights they treat how, one step by hand, schedules, and resume to the bit."""

import math

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForMaskedLM, BertForSequenceClassification, LlamaConfig, LlamaForCausalLM

from hfssl.data.augmentation import Augmentation
from hfssl.data.collators import TwoViewCollator
from hfssl.data.images import ImageDataset
from hfssl.errors import InputError
from hfssl.models import ContextEncoderConfig, ContextEncoderForPreTraining
from hfssl.models.modeling_simclr import SimCLRConfig, SimCLRForPreTraining
from hfssl.training import PretrainingArguments, PretrainingTrainer, run
from hfssl.training.optim import build_optimizer, parse_options, scale_learning_rates, schedule_options
from tests.conftest import TINY_RESNET
from tests.training.test_run import KillAt, assert_equal_runs, tiny_gpt, trainer_for

SMALL = {"vocab_size": 24, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def models():
    torch.manual_seed(0)
    simclr = SimCLRConfig(backbone="resnet10t", stem="cifar", image_size=8)
    return {
        "gpt2": tiny_gpt(),
        "llama": LlamaForCausalLM(LlamaConfig(**SMALL)),
        "bert": BertForMaskedLM(BertConfig(**SMALL)),
        "classifier": BertForSequenceClassification(BertConfig(**SMALL)),
        "simclr": SimCLRForPreTraining(simclr),
    }


def arguments(out, **settings):
    return PretrainingArguments(output_dir=str(out), use_cpu=True, **settings)


class Two(nn.Module):
    """A matrix and a bias with given gradients."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.weight, self.bias = nn.Parameter(torch.randn(6, 9)), nn.Parameter(torch.randn(6))
        self.weight.grad, self.bias.grad = torch.randn(6, 9), torch.randn(6)


@pytest.mark.parametrize("name", models())
@pytest.mark.parametrize("optim", ["adamw_torch", "muon", "lars", "lamb"])
def test_norms_and_biases_do_not_decay(tmp_path, name, optim):
    model = models()[name]
    trainer = trainer_for(tmp_path / "out", model, optim=optim, weight_decay=0.3)
    decayed = {
        id(weight): group["weight_decay"] > 0
        for group in trainer.create_optimizer().param_groups
        for weight in group["params"]
    }
    norms = [module for module in model.modules() if "Norm" in type(module).__name__]
    assert norms and not any(decayed[id(weight)] for norm in norms for weight in norm.parameters(recurse=False))
    for path, weight in model.named_parameters():
        assert decayed[id(weight)] == (weight.ndim > 1), path


@pytest.mark.parametrize(
    ("name", "aside"),
    [
        ("gpt2", {"transformer.wte.weight", "transformer.wpe.weight"}),
        ("llama", {"model.embed_tokens.weight", "lm_head.weight"}),
        ("bert", {f"bert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")}),
        (
            "classifier",
            {f"bert.embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")}
            | {"classifier.weight"},
        ),
        ("simclr", set()),
    ],
)
def test_muon_leaves_embeddings_heads_and_norms_to_adamw(tmp_path, name, aside):
    model = models()[name]
    optimizer = build_optimizer(model, [], arguments(tmp_path, optim="muon"))
    for weight in model.parameters():
        weight.grad = torch.randn_like(weight)
    optimizer.step()
    by_adam = {path for path, weight in model.named_parameters() if "exp_avg" in optimizer.state[weight]}
    assert {path for path in by_adam if model.get_parameter(path).ndim > 1} == aside
    assert all(path in by_adam for path, weight in model.named_parameters() if weight.ndim == 1)


def test_a_step_of_muon_is_nearly_orthogonal_and_of_adamw_by_the_formula(tmp_path):
    model = Two()
    before, bias, gradient = model.weight.detach().clone(), model.bias.detach().clone(), model.bias.grad
    build_optimizer(model, [], arguments(tmp_path, optim="muon", learning_rate=0.1, weight_decay=0.5)).step()
    step = (before - model.weight.detach()) / 0.1
    left, _, right = torch.linalg.svd(model.weight.grad, full_matrices=False)
    assert torch.linalg.svdvals(step).std() < 0.15 * torch.linalg.svdvals(step).mean()
    cosine = (step * (left @ right)).sum() / step.norm() / (left @ right).norm()
    assert cosine > 0.98
    # Adam's first step is the sign of the gradient; Muon's has the same root mean square to a factor of five.
    torch.testing.assert_close(bias - model.bias, 0.1 * gradient.sign(), rtol=1e-5, atol=1e-6)
    assert 0.1 < step.square().mean().sqrt() < 1


def test_a_step_of_lars_by_hand(tmp_path):
    model, decay = Two(), 0.1
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    build_optimizer(model, ["weight"], arguments(tmp_path, optim="lars", learning_rate=2.0, weight_decay=decay)).step()
    trust = 0.001 * weight.norm() / (model.weight.grad.norm() + decay * weight.norm())  # the paper's equation 6
    expected = weight - 2.0 * trust * (model.weight.grad + decay * weight)
    torch.testing.assert_close(model.weight.detach(), expected)
    torch.testing.assert_close(model.bias.detach(), bias - 2.0 * model.bias.grad)


def test_lars_has_the_papers_momentum(tmp_path):
    model = Two()
    optimizer = build_optimizer(model, ["weight"], arguments(tmp_path, optim="lars", learning_rate=1.0))
    bias = model.bias.detach().clone()
    for _ in range(3):
        optimizer.step()  # with one gradient g: the biases move by g, 1.9 g and 2.71 g
    torch.testing.assert_close(bias - model.bias.detach(), 5.61 * model.bias.grad)


def test_lars_scales_without_decay_too(tmp_path):
    model = Two()
    weight = model.weight.detach().clone()
    build_optimizer(model, ["weight"], arguments(tmp_path, optim="lars", learning_rate=2.0)).step()
    moved = (model.weight.detach() - weight).norm()
    assert moved == pytest.approx(2.0 * 0.001 * float(weight.norm()), rel=1e-4)


def test_a_step_of_lamb_by_hand(tmp_path):
    model, decay = Two(), 0.1
    weight, bias = model.weight.detach().clone(), model.bias.detach().clone()
    build_optimizer(model, ["weight"], arguments(tmp_path, optim="lamb", learning_rate=0.01, weight_decay=decay)).step()
    update = model.weight.grad.sign() + decay * weight  # m / sqrt(v) of the first step, and the decay
    expected = weight - 0.01 * weight.norm() / update.norm() * update
    torch.testing.assert_close(model.weight.detach(), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.bias.detach(), bias - 0.01 * model.bias.grad.sign(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("optim", ["adamw_torch_fused", "muon", "lars", "lamb"])
@pytest.mark.parametrize("schedule", ["cosine", "warmup_stable_decay"])
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, optim, schedule):
    settings = {"optim": optim, "lr_scheduler_type": schedule, "weight_decay": 0.1}
    run(trainer_for(tmp_path / "whole", tiny_gpt(0.1), **settings))
    with pytest.raises(SystemExit):
        run(trainer_for(tmp_path / "parts", tiny_gpt(0.1), [KillAt(5)], **settings))
    torch.manual_seed(99)
    run(trainer_for(tmp_path / "parts", tiny_gpt(0.1), **settings))
    assert_equal_runs(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize(
    ("optim", "settings"),
    [
        ("muon", {"learning_rate": 0.02}),
        # LARS moves a weight by a thousandth of its size a step, for thousands of steps: for 80 it needs more.
        ("lars", {"learning_rate": 0.3, "optim_args": "trust_coeff=0.05"}),
        ("lamb", {"learning_rate": 0.1}),
    ],
)
def test_each_of_them_learns(tmp_path, optim, settings):
    metrics = run(trainer_for(tmp_path / "out", max_steps=80, optim=optim, **settings))
    assert metrics["eval_loss"] < 0.5 * math.log(24)


def rates(tmp_path, schedule, **settings):
    trainer = trainer_for(tmp_path, lr_scheduler_type=schedule, learning_rate=1.0, warmup_steps=2, **settings)
    trainer.create_optimizer_and_scheduler(12)
    found = []
    for _ in range(12):
        found.append(trainer.optimizer.param_groups[0]["lr"])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    return found


def test_schedules_by_their_formulas(tmp_path):
    rest = [step / 10 for step in range(10)]
    assert rates(tmp_path / "l", "linear") == pytest.approx([0, 0.5, *(1 - share for share in rest)])
    cosine = [(1 + math.cos(math.pi * share)) / 2 for share in rest]
    assert rates(tmp_path / "c", "cosine") == pytest.approx([0, 0.5, *cosine])
    fifth = [1.0] * 8 + [1.0, 0.5]  # a fifth of 12 steps: 2
    assert rates(tmp_path / "w", "warmup_stable_decay") == pytest.approx([0, 0.5, *fifth])
    told = rates(
        tmp_path / "t", "warmup_stable_decay", lr_scheduler_kwargs={"num_decay_steps": 4, "decay_type": "linear"}
    )
    assert told == pytest.approx([0, 0.5, *[1.0] * 6, 1.0, 0.75, 0.5, 0.25])


def test_what_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"--optim muonn is not known; did you mean 'muon'"):
        arguments(tmp_path, optim="muonn")
    with pytest.raises(InputError, match=r"10 steps of warm-up and 20 of decay are more than the run's 24"):
        schedule_options("warmup_stable_decay", {"num_decay_steps": 20}, 10, 24)
    with pytest.raises(InputError, match=r"--optim lars with --optim_args moment=0.9: .*moment"):
        build_optimizer(Two(), [], arguments(tmp_path, optim="lars", optim_args="moment=0.9"))
    with pytest.raises(InputError, match=r"name=value,name=value; 'momentum' is none"):
        parse_options("momentum")
    assert parse_options("a=1, b=true,c=word,d=1e-3") == {"a": 1, "b": True, "c": "word", "d": 1e-3}


def test_another_optimizer_is_another_run(tmp_path):
    run(trainer_for(tmp_path / "out", max_steps=1))
    with pytest.raises(InputError, match=r"arguments.optim: adamw_torch_fused, now muon"):
        run(trainer_for(tmp_path / "out", max_steps=1, optim="muon"))
    with pytest.raises(InputError, match=r"arguments.optim_args: None, now momentum=0.8"):
        run(trainer_for(tmp_path / "out", max_steps=1, optim_args="momentum=0.8"))


def test_two_players_have_their_own_learning_rates(tmp_path):
    """The groups of the discriminator go at a tenth, through warm-up and decay, with their own weight decay."""
    config = ContextEncoderConfig(**TINY_RESNET, overlap=1, decoder_dim=16, discriminator_dim=8)
    model = ContextEncoderForPreTraining(config)
    args = arguments(tmp_path, learning_rate=2e-3, weight_decay=0.1, max_steps=10, warmup_steps=2, adam_beta1=0.5)
    trainer = PretrainingTrainer(model, args, [{"pixel_values": torch.zeros(3, 32, 32)}] * 8)
    trainer.create_optimizer_and_scheduler(10)
    names = {id(weight): name for name, weight in model.named_parameters()}
    seen = set()
    for step in range(3):
        for group in trainer.optimizer.param_groups:
            players = {names[id(weight)].startswith("discriminator.") for weight in group["params"]}
            assert len(players) == 1
            assert group["lr"] == pytest.approx((2e-4 if players.pop() else 2e-3) * step / 2)
            own = [names[id(weight)] for weight in group["params"]]
            decays = {model.get_parameter(name).ndim > 1 and not name.endswith("bias") for name in own}
            assert decays == {group["weight_decay"] > 0}
            seen |= {id(weight) for weight in group["params"]}
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert seen == {id(weight) for weight in model.parameters()}


def test_a_learning_rate_that_names_no_weight_is_refused():
    model = Two()
    model.learning_rate_factors = {"critic.": 0.1}
    with pytest.raises(InputError, match=r"the learning rate of critic.\* cannot be set"):
        scale_learning_rates(torch.optim.SGD(model.parameters(), 0.1), model)
    wrapped = nn.ModuleDict({"module": nn.ModuleDict({"_orig_mod": nn.ModuleDict({"critic": nn.Linear(2, 2)})})})
    wrapped.learning_rate_factors = {"critic.": 0.1}
    optimizer = torch.optim.SGD(wrapped.parameters(), 1.0)
    scale_learning_rates(optimizer, wrapped)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1]


@pytest.mark.parametrize("parts", [1, 2])
def test_both_players_go_on_to_the_bit(tmp_path, parts):
    """A run of six steps, and one that is stopped after four: both players and their moments are the same."""
    pictures = ImageDataset(torch.randint(0, 256, (16, 3, 32, 32), dtype=torch.uint8))

    def trained(out, steps):
        torch.manual_seed(0)
        config = ContextEncoderConfig(
            **TINY_RESNET, overlap=1, decoder_dim=16, discriminator_dim=8, adversarial_weight=0.5
        )
        settings = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": parts, "save_steps": 3,
                    "max_grad_norm": 0.0, "logging_steps": 1, "adam_beta1": 0.5, "learning_rate": 2e-3}  # fmt: skip
        args = arguments(out, max_steps=6, lr_scheduler_type="constant", disable_tqdm=True, **settings)
        collate = TwoViewCollator(Augmentation(32, augmentations=["crop"]), views=1)
        trainer = PretrainingTrainer(ContextEncoderForPreTraining(config), args, pictures, data_collator=collate)
        if steps < 6:
            trainer.add_callback(KillAt(steps))
        return trainer

    whole = trained(tmp_path / "whole", 6)
    run(whole)
    with pytest.raises(SystemExit):
        run(trained(tmp_path / "cut", 4))
    resumed = trained(tmp_path / "cut", 6)
    run(resumed)
    one, other = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert any(name.startswith("discriminator") for name in one)
    for first, second in zip(whole.optimizer.state.values(), resumed.optimizer.state.values(), strict=True):
        assert all(torch.equal(first[name], second[name]) for name in ("exp_avg", "exp_avg_sq"))
    kept = [
        [
            [line[name] for name in sorted(line) if name.endswith("loss")]
            for line in trainer.state.log_history
            if "loss" in line
        ]
        for trainer in (whole, resumed)
    ]  # but for "train_loss", which is of the last part
    assert kept[0] == kept[1] and "discriminator_loss" in whole.state.log_history[0]
