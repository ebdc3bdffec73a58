"""Large contrastive batches on small memory: in both ways the loss and the gradient are those of the whole batch."""

import logging

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.data import Dataset

from hfssl.errors import InputError
from hfssl.models import CPCConfig, CPCForPreTraining, SimCLRConfig, SimCLRForPreTraining
from hfssl.training import PretrainingArguments, PretrainingTrainer
from hfssl.training.large_batch import prepare_batch, running_statistics_held
from tests.training.test_run import tiny_gpt

RESNET = {"channels": [8, 8, 16, 16], "stem_width": 8, "zero_init_last": False}
MODELS = {
    "batchnorm": {"backbone_kwargs": RESNET},
    "without": {"backbone_kwargs": RESNET | {"norm_layer": "groupnorm1"}, "projection_norm": "layernorm"},
    "head": {"backbone_kwargs": RESNET | {"norm_layer": "groupnorm1"}},  # BatchNorm in the head alone
    "mobilenet": {"backbone": "mobilenetv3_small_050", "stem": "imagenet"},  # timm's BatchNorm with an activation
}


def simclr(kind="batchnorm", **changes):
    torch.manual_seed(0)
    settings = {"backbone": "resnet10t", "image_size": 16, "stem": "cifar", "projection_dim": 12}
    return SimCLRForPreTraining(SimCLRConfig(**settings | MODELS[kind] | changes)).double()


class Views(Dataset):
    """Two random views of each sample."""

    source = fingerprint = "views"

    def __len__(self):
        return 24

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        pixels = torch.randn(2, 3, 16, 16, generator=generator, dtype=torch.float64)
        return {"pixel_values": pixels, "index": index}


def collate(items):
    return {"pixel_values": torch.stack([item["pixel_values"] for item in items])}


def collate_labelled(items):
    return collate(items) | {"labels": torch.tensor([item["index"] % 3 for item in items])}


def arguments(out, **settings):
    defaults = {
        "max_steps": 2, "per_device_train_batch_size": 8, "learning_rate": 0.1, "optim": "sgd", "logging_steps": 1,
        "save_strategy": "no", "use_cpu": True, "disable_tqdm": True, "lr_scheduler_type": "constant", "seed": 3,
    }  # fmt: skip
    return PretrainingArguments(output_dir=str(out), **(defaults | settings))


def view_trainer(out, model, collator=collate, **settings):
    return PretrainingTrainer(
        model, arguments(out, **settings), Views(), eval_dataset=Views(), data_collator=collator
    )  # fmt: skip


def trained(out, model, collator=collate, **settings):
    """The state dict and the losses after two steps."""
    trainer = view_trainer(out, model, collator, **settings)
    trainer.train()
    return model.state_dict(), [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def gradient(model, **inputs):
    """Of one batch: the loss and all gradients as one vector."""
    model.train()
    loss = model(**inputs).loss
    with running_statistics_held(model):
        loss.backward()
    return loss.detach(), torch.cat([weight.grad.flatten() for weight in model.parameters()])


@pytest.fixture
def views():
    return collate([Views()[index] for index in range(9)])["pixel_values"]


@pytest.mark.parametrize("size", [1, 5, 18, 100])
@pytest.mark.parametrize("supervised", [False, True])
def test_chunks_give_the_gradient_of_the_whole_batch(tmp_path, views, size, supervised):
    labels = {"labels": torch.arange(9) % 4} if supervised else {}
    loss, whole = gradient(simclr("without", supervised=supervised), pixel_values=views, **labels)
    model = simclr("without", supervised=supervised)
    prepare_batch(model, arguments(tmp_path, large_batch="chunk", large_batch_chunk=size))
    chunked_loss, chunked = gradient(model, pixel_values=views, **labels)
    assert chunked_loss.item() == pytest.approx(loss.item(), abs=1e-12)
    assert torch.cosine_similarity(chunked, whole, dim=0) > 1 - 1e-6
    torch.testing.assert_close(chunked, whole, rtol=1e-8, atol=1e-12)
    _, part = gradient(simclr("without", supervised=supervised), pixel_values=views[:5], **_head(labels, 5))
    assert torch.cosine_similarity(part, whole, dim=0) < 0.99  # which a smaller batch does not give


def test_pairs_of_cpc_are_encoded_in_chunks_too(tmp_path):
    size = {"backbone": "resnet10t", "backbone_kwargs": {"channels": [8, 8, 8, 8], "stem_width": 8}, "image_size": 16}
    frames, found = torch.randn(5, 2, 3, 16, 16), []
    for mode in ("none", "chunk"):
        torch.manual_seed(0)
        model = CPCForPreTraining(CPCConfig(**size, objective="pairs", norm="group")).double()
        prepare_batch(model, arguments(tmp_path, large_batch=mode, large_batch_chunk=3))
        model.train()(frames.double()).loss.backward()
        found.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-12)


def _head(labels, count):
    return {name: value[:count] for name, value in labels.items()}


def test_dropout_is_the_same_in_both_passes(tmp_path, views):
    dropout = RESNET | {"norm_layer": "groupnorm1", "drop_rate": 0.5, "drop_path_rate": 0.5}
    reference = simclr("without", backbone_kwargs=dropout).train()
    torch.manual_seed(1)
    parts = [reference.embed(part)[1] for part in views.flatten(0, 1).split(4)]
    reference._loss(torch.cat(parts).unflatten(0, (9, 2)), None).backward()
    model = simclr("without", backbone_kwargs=dropout)
    prepare_batch(model, arguments(tmp_path, large_batch="chunk", large_batch_chunk=4))
    torch.manual_seed(1)
    gradient(model, pixel_values=views)
    assert torch.rand(1) == _after_passes(dropout, views), "the second pass draws no new random numbers"
    for expected, got in zip(reference.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(got.grad, expected.grad, rtol=1e-8, atol=1e-12)


def _after_passes(dropout, views):
    model = simclr("without", backbone_kwargs=dropout).train()
    torch.manual_seed(1)
    for part in views.flatten(0, 1).split(4):
        model.embed(part)
    return torch.rand(1)


@pytest.mark.parametrize("kind", ["batchnorm", "mobilenet"])
def test_stages_computed_again_change_nothing(tmp_path, views, kind):
    reference, model = simclr(kind), simclr(kind)
    loss, whole = gradient(reference, pixel_values=views)
    prepare_batch(model, arguments(tmp_path, large_batch="checkpoint"))
    again_loss, again = gradient(model, pixel_values=views)
    assert torch.equal(again_loss, loss) and torch.equal(again, whole)
    assert_equal(model.state_dict(), reference.state_dict())
    model(views).loss.backward()  # nothing holds the statistics here
    reference(views).loss.backward()
    state = reference.state_dict()
    counts = [
        name for name in state if "num_batches" in name and not torch.equal(state[name], model.state_dict()[name])
    ]
    assert counts, "a plain backward pass counts the batch once more"


def assert_equal(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert torch.equal(one[name], other[name]), name


@pytest.mark.parametrize(
    ("kind", "mode"), [("without", "chunk"), ("without", "checkpoint"), ("batchnorm", "checkpoint")]
)
def test_less_is_kept_for_the_backward_pass(tmp_path, views, kind, mode):
    def kept(large_batch):
        kwargs = MODELS[kind]["backbone_kwargs"] | {"layers": [3, 3, 3, 3]}  # the stem, which is kept, counts less
        model = simclr(kind, backbone_kwargs=kwargs).train()
        prepare_batch(model, arguments(tmp_path, large_batch=large_batch, large_batch_chunk=3))
        weights = {weight.data_ptr() for weight in model.parameters()}
        sizes = {}

        def pack(tensor):
            if tensor.data_ptr() not in weights:
                sizes[tensor.data_ptr()] = tensor.numel()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            model(views)
        return sum(sizes.values())

    assert kept(mode) < kept("none") / 2


@pytest.mark.parametrize(("kind", "mode"), [("without", "chunk"), ("batchnorm", "checkpoint")])
def test_a_training_run_is_the_same(tmp_path, kind, mode):
    state, losses = trained(tmp_path / "plain", simclr(kind))
    other, other_losses = trained(tmp_path / mode, simclr(kind), large_batch=mode, large_batch_chunk=5)
    assert other_losses == losses and len(losses) == 2
    for name in state:
        torch.testing.assert_close(other[name], state[name], rtol=1e-9, atol=1e-12)


def test_chunks_refuse_batchnorm_wherever_it_is(tmp_path):
    for kind, name in (("batchnorm", "simclr.timm_model"), ("head", "projection_head.1"), ("mobilenet", "bn1")):
        with pytest.raises(
            InputError, match=rf"chunk is for models without BatchNorm; .*{name}.*--large_batch checkpoint$"
        ):
            view_trainer(tmp_path / "out", simclr(kind), large_batch="chunk")
    assert not (tmp_path / "out").exists()


def test_evaluation_has_a_loss_with_labels_and_without(tmp_path):
    for supervised, collator in ((False, collate), (True, collate_labelled)):
        trainer = view_trainer(tmp_path / "out", simclr(supervised=supervised), collator)
        assert trainer.evaluate()["eval_loss"] > 0
    trained(tmp_path / "supervised", simclr(supervised=True), collate_labelled)


def test_accumulation_is_no_larger_batch(tmp_path, caplog):
    def warnings(model, **settings):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "hfssl"):
            prepare_batch(model, arguments(tmp_path, **settings))
        return caplog.messages

    assert warnings(simclr()) == []
    (alone,) = warnings(simclr(), gradient_accumulation_steps=4)
    assert "each of the 4 parts compares its own 8 images" in alone and alone.endswith(
        "with --large_batch chunk or checkpoint"
    )
    (both,) = warnings(simclr(), gradient_accumulation_steps=4, large_batch="checkpoint")
    assert "no larger contrastive batch, with --large_batch checkpoint, too: each of the 4" in both
    (cpc,) = warnings(
        CPCForPreTraining(CPCConfig(backbone="resnet10t", objective="pairs")), gradient_accumulation_steps=4
    )
    assert "each of the 4 parts compares its own 8 images" in cpc and "--large_batch chunk" in cpc
    for negatives, count in (("all", 1), ("other_images", 1), ("same_image", 0)):
        image = CPCForPreTraining(CPCConfig(backbone="resnet10t", image_size=64, negatives=negatives))
        assert len(warnings(image, gradient_accumulation_steps=4)) == count
    assert warnings(tiny_gpt(), gradient_accumulation_steps=4) == []


def test_what_is_refused(tmp_path):
    with pytest.raises(
        InputError, match="--large_batch chunks is not known: one of none, chunk, checkpoint; did you mean 'chunk'"
    ):
        arguments(tmp_path, large_batch="chunks")
    with pytest.raises(InputError, match="--large_batch_chunk must be at least 1, not 0"):
        arguments(tmp_path, large_batch_chunk=0)
    with pytest.raises(InputError, match="whole images, such as SimCLR's; GPT2LMHeadModel is not computed in this way"):
        prepare_batch(tiny_gpt(), arguments(tmp_path, large_batch="chunk"))
    with pytest.raises(InputError, match="a batch of 1 has nothing to compare with"):
        view_trainer(tmp_path / "out", simclr(), per_device_train_batch_size=1)
    with pytest.raises(InputError, match="timm cannot compute the stages of this backbone again"):
        model = simclr(backbone="lambda_resnet26t", backbone_kwargs={}, stem="imagenet")
        model.supports_gradient_checkpointing = False
        prepare_batch(model, arguments(tmp_path, large_batch="checkpoint"))
    assert not (tmp_path / "out").exists()


def test_another_way_is_another_run(tmp_path):
    plain, chunk = arguments(tmp_path).identity(), arguments(tmp_path, large_batch="chunk").identity()
    assert chunk.keys() - plain.keys() == {"large_batch", "large_batch_chunk"}
    assert "sync_batchnorm" in arguments(tmp_path, sync_batchnorm=True).identity()
