"""The training classes against the stock models they are: losses, gradients, what is saved, and documents apart."""

import json
import subprocess
import sys

import pytest
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    ModernBertConfig,
)

from hfssl.models import linear_cross_entropy as head
from hfssl.models.linear_cross_entropy import IGNORED, linear_cross_entropy
from hfssl.models.modeling_lm import language_model, positions_within

VOCABULARY, LENGTH = 37, 12
CONFIGS = {
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=LENGTH, resid_pdrop=0.0, embd_pdrop=0.0,
        attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    ),
    "llama": LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH,
    ),
    "bert": BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    ),
    "bert_decoder": BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, is_decoder=True,
    ),
    "modernbert": ModernBertConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=LENGTH, pad_token_id=0, bos_token_id=0, eos_token_id=0, cls_token_id=0, sep_token_id=0,
    ),
}  # fmt: skip
CAUSAL = ("gpt2", "llama", "bert_decoder")
MASKED = ("bert", "modernbert")


def models(kind, dtype=torch.float32, **settings):
    """The training class and the stock model with the same weights."""
    torch.manual_seed(0)
    config = CONFIGS[kind].__class__(**{**CONFIGS[kind].to_dict(), **settings})
    ours = language_model(config).to(dtype).eval()
    with torch.no_grad():
        for weight in ours.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    stock = ours.stock(config).to(dtype).eval()
    stock.load_state_dict(ours.state_dict())
    return ours, stock


def batch(kind, rows=3, share=0.3):
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, VOCABULARY, (rows, LENGTH), generator=generator)
    if kind in CAUSAL:
        return {"input_ids": ids, "labels": ids.clone()}
    chosen = torch.rand(ids.shape, generator=generator) < share
    return {"input_ids": ids, "labels": ids.masked_fill(~chosen, IGNORED)}


def largest_difference(first, second):
    pairs = zip(first.named_parameters(), second.named_parameters(), strict=True)
    differences = []
    for (name, one), (same, other) in pairs:
        assert name == same
        if (one.grad is None) != (other.grad is None):
            unused = one.grad if other.grad is None else other.grad
            assert unused.abs().max() == 0, name
        elif one.grad is not None:
            differences.append(float((one.grad - other.grad).abs().max()))
    return max(differences)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100, None])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_the_chunked_loss_equals_torch_s(seed, bias, chunk_size):
    generator = torch.Generator().manual_seed(seed)
    rows, width, vocabulary = (int(torch.randint(low, 40, (), generator=generator)) for low in (1, 1, 2))
    tensors = [torch.randn(rows, width, generator=generator), torch.randn(vocabulary, width, generator=generator)]
    tensors.append(torch.randn(vocabulary, generator=generator) if bias else None)
    targets = torch.randint(0, vocabulary, (rows,), generator=generator)
    targets[torch.rand(rows, generator=generator) < 0.3] = IGNORED
    results = []
    for function in (
        lambda h, w, b: torch.nn.functional.cross_entropy(h @ w.T + (0 if b is None else b), targets, reduction="sum"),
        lambda h, w, b: linear_cross_entropy(h, w, b, targets, chunk_size),
    ):
        inputs = [None if tensor is None else tensor.clone().requires_grad_() for tensor in tensors]
        loss = function(*inputs)
        (loss * 0.7).backward()
        results.append([loss.detach(), *(tensor.grad for tensor in inputs if tensor is not None)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("targets", ["all", "some", "none"])
def test_the_mean_loss_equals_torch_s_to_1e_6(seed, targets):
    """Float32, logits of the size that a model's have, random shapes over a tile's edge, also without any target."""
    generator = torch.Generator().manual_seed(seed)
    rows, width, vocabulary = (
        int(torch.randint(low, high, (), generator=generator)) for low, high in ((1, 60), (1, 50), (2, 5000))
    )
    hidden = torch.randn(rows, width, generator=generator)
    weight = torch.randn(vocabulary, width, generator=generator) / width**0.5
    bias = torch.randn(vocabulary, generator=generator) if seed % 2 else None
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    if targets != "all":
        labels[torch.rand(rows, generator=generator) < (0.7 if targets == "some" else 2.0)] = IGNORED
    count = max(1, int((labels != IGNORED).sum()))
    results = []
    for function in (
        lambda h, w, b: torch.nn.functional.cross_entropy(
            torch.nn.functional.linear(h, w, b), labels, reduction="sum", ignore_index=IGNORED
        ),
        lambda h, w, b: linear_cross_entropy(h, w, b, labels, 1 + seed),
    ):
        inputs = [None if tensor is None else tensor.clone().requires_grad_() for tensor in (hidden, weight, bias)]
        loss = function(*inputs) / count
        loss.backward()
        results.append([loss.detach(), *(tensor.grad for tensor in inputs if tensor is not None)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)


class Largest(TorchDispatchMode):
    """Watches every operation, forward and backward: the most elements of a result in memory that is not `known`."""

    def __init__(self, *known):
        super().__init__()
        self.elements, self.known = 0, {tensor.data_ptr() for tensor in known}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **keywords or {})
        for tensor in pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.data_ptr() not in self.known:
                self.elements = max(self.elements, tensor.untyped_storage().nbytes() // tensor.element_size())
        return result


@pytest.mark.parametrize("kind", CONFIGS)
def test_no_tensor_of_tokens_times_vocabulary_exists(kind, monkeypatch):
    monkeypatch.setattr(head, "_CPU_LOGITS", 2**16)  # floats at one time
    vocabulary, rows = 4096, 32  # 384 tokens: 1.6 million logits
    found = {}
    for name, model in zip(("ours", "stock"), models(kind, vocab_size=vocabulary), strict=True):
        inputs = batch(kind, rows=rows, share=1.0)
        with Largest() as largest:
            model(**inputs).loss.backward()
        found[name] = largest.elements
    assert found["stock"] >= rows * (LENGTH - 1) * vocabulary, "what the watch would see"
    weights = max(weight.numel() for weight in model.parameters())
    assert found["ours"] <= max(2**16, weights), "one chunk of logits, or a gradient"


def test_the_chunked_gradient_in_float64():
    hidden = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(6, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 5, IGNORED, 2, 2])
    assert torch.autograd.gradcheck(lambda h, w, b: linear_cross_entropy(h, w, b, targets, 2), (hidden, weight, bias))


def test_without_gradients_none_are_made():
    weight = torch.randn(50, 8, requires_grad=True)
    with torch.no_grad(), Largest(weight) as largest:
        linear_cross_entropy(torch.randn(2, 8), weight, None, torch.tensor([1, 2]))
    assert largest.elements < weight.numel()


def test_bfloat16_sums_in_float32():
    hidden, weight = torch.randn(64, 8).bfloat16(), torch.randn(50, 8)
    targets = torch.randint(0, 50, (64,))
    expected = torch.nn.functional.cross_entropy(hidden.float() @ weight.bfloat16().float().T, targets, reduction="sum")
    with torch.autocast("cpu", torch.bfloat16):
        found = linear_cross_entropy(hidden.float(), weight, None, targets, 16)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=1e-2, atol=0)


@pytest.mark.parametrize("kind", CONFIGS)
def test_loss_and_gradients_equal_the_stock_model_s(kind):
    ours, stock = models(kind)
    inputs = batch(kind)
    ours(**inputs).loss.backward()
    expected = stock(**inputs).loss
    expected.backward()
    torch.testing.assert_close(ours(**inputs).loss, expected, rtol=1e-6, atol=1e-6)
    assert largest_difference(ours, stock) < 1e-6


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_same_in_training_where_activations_are_fused(kind):
    """The nets have no dropout."""
    ours, stock = (model.train() for model in models(kind))
    losses = [model(**batch(kind)).loss for model in (ours, stock)]
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(*losses, rtol=1e-6, atol=1e-6)
    assert largest_difference(ours, stock) < 1e-6


@pytest.mark.parametrize("kind", CONFIGS)
def test_without_labels_the_stock_logits(kind):
    ours, stock = models(kind)
    ids = batch(kind)["input_ids"]
    assert torch.equal(ours(ids).logits, stock(ids).logits)


@pytest.mark.parametrize("kind", CONFIGS)
def test_no_logits_are_kept_and_a_batch_without_targets_costs_nothing(kind):
    ours, _ = models(kind)
    inputs = batch(kind)
    assert ours(**inputs).get("logits") is None
    loss = ours(inputs["input_ids"], labels=torch.full_like(inputs["labels"], IGNORED)).loss
    assert loss == 0
    loss.backward()
    assert all(weight.grad is None or weight.grad.abs().max() == 0 for weight in ours.parameters())


@pytest.mark.parametrize("kind", CONFIGS)
def test_parts_of_a_step_sum_to_the_whole(kind):
    ours, _ = models(kind, torch.float64)
    inputs = batch(kind, rows=8)
    whole = ours(**inputs).loss
    count = ours.count_targets(inputs["labels"])
    for parts in (2, 8):
        pieces = [{key: value.chunk(parts)[i] for key, value in inputs.items()} for i in range(parts)]
        total = sum(ours(**piece, num_items_in_batch=count).loss for piece in pieces)
        torch.testing.assert_close(total, whole, rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", MASKED)
def test_given_positions_change_nothing(kind):
    ours, _ = models(kind)
    inputs = batch(kind)
    counts = (inputs["labels"] != IGNORED).sum(1)
    positions = torch.argsort((inputs["labels"] == IGNORED).int(), dim=1, stable=True)[:, : counts.max()]
    assert counts.min() < counts.max(), "some rows have fewer than others"
    torch.testing.assert_close(ours(**inputs, masked_positions=positions).loss, ours(**inputs).loss)


@pytest.mark.parametrize("kind", CONFIGS)
def test_what_is_saved_is_the_stock_model(kind, tmp_path):
    ours, stock = models(kind)
    ours.save_pretrained(tmp_path)
    stock.save_pretrained(tmp_path / "stock")
    assert type(ours) is not type(stock), "still the training class"
    assert (tmp_path / "config.json").read_text() == (tmp_path / "stock" / "config.json").read_text()
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "stock" / "model.safetensors").read_bytes()
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == [ours.stock.__name__]
    auto = AutoModelForCausalLM if kind in CAUSAL else AutoModelForMaskedLM
    loaded = auto.from_pretrained(tmp_path).eval()
    assert type(loaded) is ours.stock
    ids = batch(kind)["input_ids"]
    assert torch.equal(loaded(ids).logits, stock(ids).logits)


def test_loading_needs_no_hfssl(tmp_path):
    ours, stock = models("bert")
    ours.save_pretrained(tmp_path)
    code = (
        "import sys; sys.modules['hfssl'] = None\n"
        "import torch; from transformers import AutoModelForMaskedLM as A\n"
        f"print(A.from_pretrained({str(tmp_path)!r}).eval()(torch.arange(10)[None]).logits.sum().item())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert float(found) == stock(torch.arange(10)[None]).logits.sum().item()


def test_positions_within_documents():
    ids = torch.tensor([[0, 0, 0, 1, 1, 2], [3, 4, 4, 4, 4, 4]])
    assert positions_within(ids).tolist() == [[0, 1, 2, 0, 1, 0], [0, 0, 1, 2, 3, 4]]


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["gpt2", "llama", "bert"])
def test_packed_documents_equal_separate_ones(kind, attention):
    """The stock models leak: a packed row's documents see each other (reference: transformers issue 23198)."""
    ours, stock = models(kind, attn_implementation=attention)
    assert ours.config._attn_implementation == attention
    inputs = batch(kind, rows=2, share=0.6)
    lengths = [[5, 4, 3], [1, 7, 4]]
    ids = torch.tensor([[row * 10 + i for i, n in enumerate(ns) for _ in range(n)] for row, ns in enumerate(lengths)])
    packed = ours(inputs["input_ids"], document_ids=ids).logits
    losses, count, start = 0.0, 0, 0
    for row, ns in enumerate(lengths):
        start = 0
        for n in ns:
            here = slice(start, start + n)
            separate = stock(inputs["input_ids"][row : row + 1, here]).logits
            torch.testing.assert_close(packed[row : row + 1, here], separate, rtol=1e-5, atol=1e-5)
            labels = inputs["labels"][row : row + 1, here]
            n_targets = int(ours.count_targets(labels))
            if n_targets:
                losses += float(stock(inputs["input_ids"][row : row + 1, here], labels=labels).loss) * n_targets
            count += n_targets
            start += n
    loss = ours(**inputs, document_ids=ids, num_items_in_batch=torch.tensor(count)).loss
    assert float(loss) == pytest.approx(losses / count, rel=1e-5)
    leaking = ours(inputs["input_ids"]).logits
    assert (leaking - packed).abs().max() > 1e-3, "without the mask they would see each other"


def test_documents_are_never_mixed_in_silence():
    for kind in ("gpt2", "bert"):
        ours, _ = models(kind)
        inputs = batch(kind) | {"document_ids": torch.zeros(3, LENGTH, dtype=torch.int64)}
        with pytest.raises(ValueError, match="give document_ids or attention_mask"):
            ours(**inputs, attention_mask=torch.ones(3, LENGTH))
        ours.config._attn_implementation = "flash_attention_2"
        with pytest.raises(ValueError, match="attn_implementation must be sdpa"):
            ours(**inputs)


def test_a_bert_read_left_to_right_is_the_blank_model_s_net():
    """The same weights from the same seed, and no token sees a later one."""
    torch.manual_seed(0)
    blank = language_model(CONFIGS["bert"])
    torch.manual_seed(0)
    left_to_right = language_model(CONFIGS["bert_decoder"]).eval()
    assert all(torch.equal(weight, left_to_right.state_dict()[name]) for name, weight in blank.state_dict().items())
    ids = batch("bert")["input_ids"]
    changed = ids.clone()
    changed[:, 7] = (ids[:, 7] + 1) % VOCABULARY
    first, second = left_to_right(ids).logits, left_to_right(changed).logits
    assert torch.equal(first[:, :7], second[:, :7]) and not torch.allclose(first[:, 7:], second[:, 7:])
    with pytest.raises(ValueError, match="no causal mask that keeps documents apart"):
        left_to_right(ids, labels=ids, document_ids=torch.zeros_like(ids))


def test_gpt2_s_residual_projections_start_smaller():
    """By 1 / sqrt(2 layers) (Radford et al. 2019, section 2.3); the bug came back twice upstream (17877, 47458)."""
    config = GPT2Config(vocab_size=50, n_embd=256, n_layer=8, n_head=4, n_positions=8, bos_token_id=0, eos_token_id=0)
    for name, weight in language_model(config).named_parameters():
        if name.endswith("c_proj.weight"):
            assert weight.detach().std().item() == pytest.approx(0.02 / 4, rel=0.05), name
        elif name.endswith(("c_attn.weight", "c_fc.weight")):
            assert weight.detach().std().item() == pytest.approx(0.02, rel=0.05), name


def test_an_unknown_architecture():
    from transformers import T5Config

    with pytest.raises(ValueError, match="no training class for 't5'; there are gpt2, llama, bert, modernbert"):
        language_model(T5Config())
