"""What is added to word embeddings, and what the adversarial strategies make of it."""

import dataclasses
import json
import math

import pytest
import torch
from transformers import BartConfig, BartForSequenceClassification, BertConfig, BertForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from hfssl.errors import InputError
from hfssl.evaluation.tasks import TASKS
from hfssl.finetuning.heads import choose_head, load_model
from hfssl.finetuning.losses import item_divergences, item_losses
from hfssl.finetuning.sources import open_source
from hfssl.finetuning.strategies import STRATEGIES, parse_strategy
from hfssl.finetuning.strategies.alice import Alice
from hfssl.finetuning.strategies.freelb import SETTINGS, FreeLB
from hfssl.finetuning.strategies.perturbation import Noise, RandomState, ascend, perturbed, word_embeddings
from hfssl.finetuning.strategies.smart import Smart
from hfssl.finetuning.strategies.strategy import Strategy
from tests.finetuning.test_trainer import trainer_for

IDS = torch.tensor([[2, 7, 9, 3, 11, 3], [2, 5, 3, 6, 0, 0], [2, 8, 3, 0, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]])
INPUTS = {"input_ids": IDS, "attention_mask": MASK}
LABELS = torch.tensor([0, 2, 1])
LARGE = {"sigma": 0.02, "step_size": 0.05, "epsilon": 0.06}  # perturbations that change a prediction
FAR = FreeLB(steps=3, step_size=0.5, magnitude=1.0, epsilon=0.7)


@pytest.fixture
def bert():
    """float64, without dropout."""
    torch.manual_seed(0)
    size = {"vocab_size": 20, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_labels": 3,
            "intermediate_size": 16, "max_position_embeddings": 8, "initializer_range": 0.3}  # fmt: skip
    none = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return BertForSequenceClassification(BertConfig(**size, **none)).double()


def set_dropout(model, share):
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = share
    return model.train()


def moved_logits(model, delta, inputs=INPUTS):
    """The slow way: embeddings looked up here, and handed to the model."""
    given = {name: tensor for name, tensor in inputs.items() if name != "input_ids"}
    return model(inputs_embeds=model.get_input_embeddings()(inputs["input_ids"]) + delta, **given).logits


def test_a_perturbation_is_added_to_what_is_looked_up_once(bert):
    delta = torch.randn(*IDS.shape, 16, dtype=torch.float64)
    plain = bert(**INPUTS).logits
    with perturbed(bert, delta):
        found = bert(**INPUTS).logits
    assert torch.allclose(found, moved_logits(bert, delta)) and not torch.allclose(found, plain)
    assert torch.equal(bert(**INPUTS).logits, plain)  # it is gone
    with perturbed(bert, torch.zeros_like(delta)):
        assert torch.equal(bert(**INPUTS).logits, plain)
    with pytest.raises(ZeroDivisionError), perturbed(bert, delta):
        _ = 1 / 0
    assert not bert.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("shared", [False, True])
def test_of_an_encoder_with_a_decoder_the_encoder_s_words_are_perturbed(shared):
    """Also where both look words up in one module."""
    torch.manual_seed(0)
    size = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
            "decoder_attention_heads": 2, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}  # fmt: skip
    model = BartForSequenceClassification(
        BartConfig(vocab_size=20, eos_token_id=3, pad_token_id=0, max_position_embeddings=16, **size)
    ).eval()
    if shared:
        model.model.set_input_embeddings(model.model.shared)
    ids = torch.tensor([[2, 7, 9, 4, 11, 3], [2, 5, 6, 3, 0, 0]])
    inputs = {"input_ids": ids, "attention_mask": (ids > 0).long()}
    read = {"encoder": [], "decoder": []}
    for name, seen in read.items():
        norm = getattr(model.model, name).layernorm_embedding
        norm.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given[0].detach()))
    delta = torch.randn(2, 6, 16)
    model(**inputs)
    with perturbed(model, delta):
        model(**inputs)
    assert torch.allclose(read["encoder"][1] - read["encoder"][0], delta, atol=1e-6) and torch.equal(*read["decoder"])


@pytest.mark.parametrize(("folder", "key"), [("gpt_folder", "glue/rte"), ("bert_folder", "superglue/wic")])
def test_other_models_take_a_perturbation_too(folder, key, request):
    source, task = open_source(str(request.getfixturevalue(folder))), TASKS[key]
    model = load_model(source, task, choose_head(source, task), 0).eval()
    inputs = dict(INPUTS, spans=torch.tensor([[[1, 2], [2, 3]]] * 3)) if task.name == "wic" else INPUTS
    delta = torch.zeros(*IDS.shape, word_embeddings(model).weight.shape[1], requires_grad=True)
    with perturbed(model, delta):
        model(**inputs).logits[:, 0].sum().backward()
    reached = delta.grad.abs().sum(-1) > 0
    assert torch.equal(reached, MASK.bool())  # every token, special ones too, and no padding


def test_a_model_that_reads_no_such_embeddings_is_one_line(bert):
    with pytest.raises(InputError, match="does not look its words up row by row"), perturbed(bert, torch.zeros(18, 16)):
        bert(**INPUTS)
    with pytest.raises(InputError, match="does not read its input embeddings"), perturbed(bert, torch.zeros(3, 6, 16)):
        bert.classifier(torch.zeros(3, 16, dtype=torch.float64))


class ReadsPadding(torch.nn.Module):
    """A classifier that heeds no attention mask, and keeps what it has read."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.config = BertConfig()
        self.words, self.classifier = torch.nn.Embedding(20, 16), torch.nn.Linear(16, 3)
        self.double()
        self.read = []

    def get_input_embeddings(self):
        return self.words

    def forward(self, input_ids, attention_mask):
        embedded = self.words(input_ids)
        self.read.append(embedded.detach())
        return SequenceClassifierOutput(logits=self.classifier(embedded.sum(1).tanh()))


@pytest.mark.parametrize("strategy", [Smart(**LARGE, proximal=0.0), Alice(**LARGE), FAR], ids=lambda one: one.name)
def test_padding_is_not_perturbed_by_any_strategy(strategy):
    """Though it has a gradient here; every token is perturbed, and stays in the ball."""
    model = ReadsPadding()
    gradient_of_strategy(strategy, model)
    moved = torch.stack(model.read) - model.words(IDS).detach()
    assert not moved[:, MASK == 0].any() and (moved[-1, MASK == 1].abs().amax(-1) > 0).all()
    if strategy is FAR:
        assert moved.flatten(2).norm(dim=2).max() <= FAR.epsilon * (1 + 1e-12)
    else:
        assert moved.abs().max() <= strategy.epsilon * (1 + 1e-12)


def uniform(row, generator):
    return row.uniform_(-1, 1, generator=generator)


def test_what_is_drawn_depends_neither_on_the_parts_nor_on_the_padding(bert):
    whole = Noise(bert, seed=3)
    first = whole.draw(MASK, uniform)
    assert torch.equal(first.abs().sum(-1) > 0, MASK.bool()) and first.abs().max() <= 1
    assert first[MASK.bool()].std() == pytest.approx(3**-0.5, rel=0.1)
    parts = Noise(bert, seed=3)
    other = parts.draw(MASK[:1], uniform, stream=1)
    one, rest = parts.draw(MASK[:1], uniform), parts.draw(MASK[1:, :4], uniform)
    assert torch.equal(torch.cat([one, torch.nn.functional.pad(rest, (0, 0, 0, 2))]), first)
    assert not torch.equal(other, one)
    whole.after_update()
    assert not torch.equal(whole.draw(MASK, uniform), first)
    assert not torch.equal(Noise(bert, seed=4).draw(MASK, uniform), first)


def test_nothing_is_taken_from_the_generator_that_dropout_uses(bert):
    before = torch.get_rng_state()
    state = RandomState(torch.device("cpu"))
    seeded = RandomState(torch.device("cpu"), seed=1)
    with state.replayed():
        found = torch.rand(3)
    with seeded.replayed():
        others = [torch.rand(3)]
    with seeded.replayed():
        others.append(torch.rand(3))
    Noise(bert, 0).draw(MASK, uniform)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(torch.rand(3), found) and torch.equal(*others) and not torch.equal(found, others[0])


def test_a_step_of_ascent_stays_in_the_ball():
    torch.manual_seed(0)
    delta = torch.randn(2, 3, 4, dtype=torch.float64).clamp(-0.1, 0.1)
    gradient = torch.randn(2, 3, 4, dtype=torch.float64)
    gradient[0, 1] = 0.0
    found = ascend(delta, gradient, 0.05, 0.1)
    for row in range(2):
        for token in range(3):
            largest = max(abs(value) for value in gradient[row, token].tolist())
            for entry in range(4):
                step = 0.05 * gradient[row, token, entry].item() / largest if largest else 0.0
                wanted = min(max(delta[row, token, entry].item() + step, -0.1), 0.1)
                assert found[row, token, entry].item() == pytest.approx(wanted, rel=1e-12)


def test_divergences_of_each_kind():
    torch.manual_seed(0)
    p, q = torch.randn(2, 5, 3, dtype=torch.float64)
    classes = torch.tensor([0, 1, 2, 0, 1])

    def kl(one, other):
        one, other = torch.softmax(one, -1).tolist(), torch.softmax(other, -1).tolist()
        return sum(a * math.log(a / b) for a, b in zip(one, other, strict=True))

    found = item_divergences(p, q, classes, symmetric=False)
    assert found.tolist() == pytest.approx([kl(a, b) for a, b in zip(p, q, strict=True)], rel=1e-12)
    both = item_divergences(p, q, classes)
    assert torch.allclose(both, found + item_divergences(q, p, classes, symmetric=False))
    assert torch.equal(item_divergences(p, p, classes), torch.zeros(5, dtype=torch.float64))
    scores = torch.zeros(5, dtype=torch.float64)
    assert torch.allclose(item_divergences(p, q, scores), (p[:, 0] - q[:, 0]) ** 2)
    # Two items of 3 and 2 candidates.
    groups = torch.tensor([[0, 1, 2], [3, 4, -1]])
    p = p[:, :1].clone().requires_grad_()
    found = item_divergences(p, q[:, :1], torch.ones(2, 3, dtype=torch.bool), groups, symmetric=False)
    assert found.tolist() == pytest.approx([kl(p[:3, 0], q[:3, 0]), kl(p[3:, 0], q[3:, 0])], rel=1e-12)
    found.sum().backward()
    assert p.grad.isfinite().all() and p.grad.norm() > 0
    assert torch.autograd.gradcheck(
        lambda p, q: item_divergences(p, q, torch.ones(2, 3, dtype=torch.bool), groups),
        (p.detach().requires_grad_(), q[:, :1].clone().requires_grad_()),
    )


def slow_worst(bert, strategy, objective, delta):
    """The logits under the worst of the perturbations, embeddings in hand."""
    if strategy.steps:
        delta = delta.requires_grad_()
        (gradient,) = torch.autograd.grad(objective(moved_logits(bert, delta)).sum(), delta)
        delta = ascend(delta.detach(), gradient, strategy.step_size, strategy.epsilon) * MASK[..., None]
    assert delta.abs().max() <= strategy.epsilon and not delta[MASK == 0].any()
    return moved_logits(bert, delta)


def begin(strategy, bert, stream=0):
    delta = Noise(bert, 5).draw(MASK, lambda row, generator: row.normal_(generator=generator), stream)
    return (strategy.sigma * delta).clamp(-strategy.epsilon, strategy.epsilon)


def gradient_of(loss, model):
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


def gradient_of_strategy(strategy, model, labels=LABELS):
    """The gradient of one update, by the hooks alone."""
    strategy.bind(model, None, 5, 10)
    model.zero_grad()
    for _ in range(strategy.passes):
        (strategy.losses(model, INPUTS, labels)[0].sum() / strategy.passes).backward()
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


def kl_both_ways(p, q):
    p, q = p.softmax(1), q.softmax(1)
    return ((p - q) * (p / q).log()).sum(1)


def test_smart_against_its_formula(bert):
    strategy = Smart(**LARGE, weight=3.0, proximal=0.0)
    plain = bert(**INPUTS).logits
    moved = slow_worst(bert, strategy, lambda logits: kl_both_ways(logits, plain.detach()), begin(strategy, bert))
    assert kl_both_ways(moved, plain).min() > 1e-4
    loss = (item_losses(plain, LABELS) + 3 * kl_both_ways(moved, plain)).sum()
    assert torch.allclose(gradient_of_strategy(strategy, bert), gradient_of(loss, bert), rtol=1e-8, atol=1e-11)


def test_alice_against_its_formula(bert):
    strategy = Alice(**LARGE, label_weight=2.0, prediction_weight=0.5)
    plain = bert(**INPUTS).logits

    def far(p, q):
        return (p.softmax(1) * (p.softmax(1) / q.softmax(1)).log()).sum(1)

    known = slow_worst(bert, strategy, lambda logits: item_losses(logits, LABELS), begin(strategy, bert))
    unknown = slow_worst(bert, strategy, lambda logits: far(logits, plain.detach()), begin(strategy, bert, 1))
    loss = item_losses(plain, LABELS) + 2 * item_losses(known, LABELS) + 0.5 * far(unknown, plain)
    wanted = gradient_of(loss.sum(), bert)
    assert torch.allclose(gradient_of_strategy(strategy, bert), wanted, rtol=1e-8, atol=1e-11)


def test_freelb_against_its_formula(bert):
    """Text by text: the uniform beginning, steps along the gradient's direction, back into the ball."""
    delta = Noise(bert, 5).draw(MASK, uniform)
    for row, length in enumerate(MASK.sum(1).tolist()):
        delta[row] *= FAR.magnitude / math.sqrt(length * 16)
        assert delta[row].norm() < FAR.epsilon and not delta[row, length:].any()
    wanted, norms, losses = 0, [], []
    for _ in range(3):
        delta = delta.detach().requires_grad_()
        loss = item_losses(moved_logits(bert, delta), LABELS).sum()
        losses.append(loss.item())
        wanted = wanted + gradient_of(loss, bert) / 3
        (gradient,) = torch.autograd.grad(item_losses(moved_logits(bert, delta), LABELS).sum(), delta)
        delta = delta.detach()
        for row, length in enumerate(MASK.sum(1).tolist()):
            step = gradient[row, :length]
            delta[row, :length] += FAR.step_size * step / step.norm()
            delta[row] *= min(1.0, FAR.epsilon / delta[row].norm().item())
        norms.append(delta.flatten(1).norm(dim=1))
    assert losses[0] < losses[1] < losses[2]  # it rises along the perturbation
    assert torch.cat(norms).max() == pytest.approx(0.7, rel=1e-12)  # some lie on the surface
    assert torch.allclose(gradient_of_strategy(FAR, bert), wanted, rtol=1e-8, atol=1e-11)


def test_the_loss_rises_along_a_perturbation(bert):
    for scores in (False, True):
        labels = torch.tensor([0.5, 2.0, 1.0], dtype=torch.float64) if scores else LABELS
        plain = bert(**INPUTS).logits.detach()
        for objective in (
            lambda logits, plain=plain, labels=labels: item_divergences(logits, plain, labels),
            lambda logits, labels=labels: item_losses(logits, labels),
        ):
            risen = []
            for steps in (0, 1):
                strategy = Smart(sigma=1e-3, step_size=1e-2, epsilon=2e-2, steps=steps)
                strategy.bind(bert, None, 0, 10)
                risen.append(objective(strategy.worst(bert, INPUTS, RandomState(torch.device("cpu")), objective)))
            assert (risen[1] > risen[0]).all()


def test_the_proximal_term_is_zero_at_the_anchor_and_the_anchor_follows(bert):
    """Also under dropout, which is that of the plain pass."""
    set_dropout(bert, 0.3)
    strategy = Smart(weight=0.0, proximal=2.0)
    strategy.bind(bert, None, 0, updates=20)
    torch.manual_seed(1)
    plain = item_losses(bert(**INPUTS).logits, LABELS)
    torch.manual_seed(1)
    assert torch.equal(strategy.losses(bert, INPUTS, LABELS)[0], plain)
    name, weight = "classifier.weight", bert.classifier.weight
    wanted = weight.detach().clone()
    for update in range(1, 5):  # the first tenth of 20 updates are two
        with torch.no_grad():
            weight += torch.tensor([[0.1], [0.4], [-0.3]])
        strategy.after_update(bert)
        beta = 0.99 if update <= 2 else 0.999
        wanted = beta * wanted + (1 - beta) * weight.detach()
        assert torch.allclose(strategy.anchor[name], wanted, rtol=1e-12)
    torch.manual_seed(1)
    outputs = bert(**INPUTS).logits
    torch.manual_seed(1)
    anchored = torch.func.functional_call(bert, {name: wanted}, (), INPUTS).logits
    torch.manual_seed(1)
    found = strategy.losses(bert, INPUTS, LABELS)[0]
    assert torch.allclose(found, item_losses(outputs, LABELS) + 2 * kl_both_ways(outputs, anchored), rtol=1e-8)


def test_by_default_smart_s_smoothness_is_that_of_two_dropouts(bert):
    """As docs/evaluation/strategies.md says: without a perturbation about the same, without new dropout nearly 0."""
    set_dropout(bert, 0.1)
    terms = {}
    for name, given in {"default": {}, "same": {"dropout": "same"}, "none": {"sigma": 0.0, "step_size": 0.0}}.items():
        strategy = Smart(proximal=0.0, **given)
        strategy.bind(bert, None, 5, 10)
        torch.manual_seed(1)
        found, outputs = strategy.losses(bert, INPUTS, LABELS)
        terms[name] = float((found - item_losses(outputs.logits, LABELS)).detach().mean())
    assert terms["default"] == pytest.approx(terms["none"], rel=0.02)
    assert 0 <= terms["same"] < 1e-4 * terms["default"]


def weights_after(trainer, model):
    torch.manual_seed(7)
    trainer.train()
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def test_the_trainer_calls_the_hooks(bert_folder, toy, tmp_path):
    """In two parts a batch and two passes a part: four losses an update."""
    calls = []

    class Recorder(Strategy):
        passes = 2

        def bind(self, model, task, seed, updates):
            calls.append(("bind", task.name, seed, updates))

        def losses(self, *given):
            calls.append("losses")
            return super().losses(*given)

        def after_update(self, model):
            calls.append("after_update")

    trainer, _, _ = trainer_for(bert_folder, toy, "glue/rte", tmp_path, parts=2, epochs=0.1, strategy=Recorder())
    trainer.train()
    assert calls == [("bind", "rte", 0, 2), *[*["losses"] * 4, "after_update"] * 2]
    plain, _, _ = trainer_for(bert_folder, toy, "glue/rte", tmp_path, epochs=0.1)
    plain.train()
    assert trainer.losses[0] == pytest.approx(plain.losses[0], rel=1e-6)
    assert int(trainer.real_tokens) == int(plain.real_tokens)


NOTHING = [
    Smart(weight=0.0, proximal=0.0),
    Smart(proximal=0.0, sigma=0.0, step_size=0.0, dropout="same"),  # no perturbation: nothing to be smooth about
    Alice(label_weight=0.0, prediction_weight=0.0),
    FreeLB(steps=1, step_size=0.1, magnitude=0.0, epsilon=0.1),
    FreeLB(steps=1, step_size=0.1, magnitude=0.4, epsilon=0.0),
]


def test_strategies_that_change_nothing_are_plain_training_to_the_bit(bert_folder, toy, tmp_path):
    """Dropout is on, and the same; torch's generator ends where it does in plain training."""
    found = []
    for strategy in [Strategy(), *NOTHING, Smart(), Alice(), dataclasses.replace(FAR, steps=2)]:
        trainer, model, _ = trainer_for(
            bert_folder, toy, "glue/rte", tmp_path, epochs=0.15, double=False, strategy=strategy, dropout=0.1
        )
        found.append(weights_after(trainer, model))
        state = torch.get_rng_state()
        if len(found) == 1:
            plain_state = state
        assert torch.equal(state, plain_state), "the plain passes drew as in plain training"
    same = [torch.equal(weights, found[0]) for weights in found[1:]]
    assert same == [True] * len(NOTHING) + [False] * 3


def test_freelb_s_passes_have_one_dropout(bert_folder, toy, tmp_path):
    """Without any perturbation its passes are one and the same: the update is that of plain training."""
    found = []
    for strategy in (Strategy(), FreeLB(steps=3, step_size=0.0, magnitude=0.0, epsilon=0.1)):
        trainer, model, _ = trainer_for(
            bert_folder, toy, "glue/rte", tmp_path, epochs=0.15, strategy=strategy, dropout=0.3
        )
        found.append(weights_after(trainer, model))
    assert torch.allclose(*found, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("key", ["glue/rte", "glue/stsb", "superglue/copa"])
@pytest.mark.parametrize("strategy", [Smart(**LARGE), Alice(**LARGE), FAR], ids=lambda strategy: strategy.name)
def test_an_update_of_each_strategy_is_the_same_in_however_many_parts(bert_folder, toy, tmp_path, key, strategy):
    found = []
    for parts in (1, 4):
        given = dataclasses.replace(strategy)
        trainer, model, _ = trainer_for(bert_folder, toy, key, tmp_path, parts, epochs=0.1, strategy=given)
        found.append((weights_after(trainer, model), trainer.losses[0]))
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-6)
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("strategy", [Smart(**LARGE), Alice(**LARGE)], ids=lambda strategy: strategy.name)
def test_a_gradient_that_is_not_finite_gives_no_perturbation_and_is_said(bert, strategy, monkeypatch):
    real = torch.autograd.grad

    def broken(loss, delta, **more):
        (gradient,) = real(loss, delta, **more)
        gradient[1, 0, 0] = math.nan
        return (gradient,)

    strategy.bind(bert, None, 5, 10)
    whole = strategy.losses(bert, INPUTS, LABELS)[0].detach()
    assert strategy.flags() == []
    monkeypatch.setattr(torch.autograd, "grad", broken)
    strategy.bind(bert, None, 5, 10)
    found = strategy.losses(bert, INPUTS, LABELS)[0].detach()
    plain = item_losses(bert(**INPUTS).logits, LABELS).detach()
    copies = 2 if strategy.name == "alice" else 1  # alice's loss of that text stands there twice
    assert torch.allclose(found[1], copies * plain[1]) and torch.equal(found[[0, 2]], whole[[0, 2]])
    assert strategy.flags() == [
        f"{strategy.name}: perturbations left out since their gradient was not finite: {copies}"
    ]


def test_freelb_goes_on_after_a_gradient_that_is_not_finite(bert):
    FAR.bind(bert, None, 5, 10)
    FAR.losses(bert, INPUTS, LABELS)[0].sum().backward()
    FAR.delta.grad[2, 1, 3] = math.inf
    found = FAR.losses(bert, INPUTS, LABELS)[0]
    assert not FAR.delta[2].any() and FAR.delta[:2].any()
    assert torch.allclose(found[2], item_losses(bert(**INPUTS).logits, LABELS)[2])
    assert FAR.flags() == ["freelb: perturbations left out since their gradient was not finite: 1"]


def test_in_bf16_small_perturbations_are_said_to_be_lost(bert):
    model = bert.float()
    for epsilon, said in ((1e-5, 1), (1e-1, 0)):
        strategy = Smart(proximal=0.0, epsilon=epsilon)
        strategy.bind(model, None, 0, 10)
        with torch.autocast("cpu", torch.bfloat16):
            strategy.losses(model, INPUTS, LABELS)
        assert len([flag for flag in strategy.flags() if "bf16" in flag]) == said


def test_freelb_s_ball_of_radius_0_holds_nothing_and_an_infinite_one_everything():
    found = []
    for option in ("epsilon=0", "epsilon=inf"):
        strategy = parse_strategy("freelb", [option, "magnitude=3"])
        strategy.bind(
            BertForSequenceClassification(BertConfig(vocab_size=20, hidden_size=12, num_hidden_layers=1)), None, 0, 1
        )
        found.append(strategy.beginning(MASK))
    assert not found[0].any() and found[1].flatten(1).norm(dim=1).min() > 1
    said = json.loads(json.dumps(strategy.options, allow_nan=False))["freelb"]["epsilon"]
    assert parse_strategy("freelb", [f"epsilon={said}", "magnitude=3"]) == strategy
    with pytest.raises(InputError, match=r"freelb.step_size must be at least 0, not inf"):
        parse_strategy("freelb", ["step_size=inf"])


def test_freelb_takes_the_paper_s_row_of_the_task():
    assert set(SETTINGS) == {"cola", "sst2", "mrpc", "stsb", "mnli", "qnli", "qqp", "rte"}
    found = STRATEGIES["freelb"](step_size=0.5).for_task(TASKS["glue/cola"])
    assert found == FreeLB(steps=3, step_size=0.5, magnitude=0.4, epsilon=0.3) and found.passes == 3
    assert FreeLB().for_task(TASKS["glue/wnli"]) == FreeLB().for_task(TASKS["glue/rte"])
