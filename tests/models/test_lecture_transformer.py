"""The lecture's transformer against loops over its indices, torch's attention and GPT-2's block."""

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import GPT2Config
from transformers.models.gpt2.modeling_gpt2 import GPT2Block

from hfssl.models.lecture_transformer import POSITIONS, LectureSelfAttention, LectureTransformer

K, U, J, T = 3, 5, 12, 7
I = J // K  # noqa: E741  the lecture's name


def layer(key_width=U):
    return LectureSelfAttention(J, K, key_width).double()


def vectors(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def loops(attention, h, causal):
    """The slides, index by index."""
    W_Q, W_K, W_V = (weight.detach() for weight in (attention.W_Q, attention.W_K, attention.W_V))
    out = torch.zeros(T, J, dtype=torch.float64)
    for k in range(K):
        query = [[sum(W_Q[k, u, j] * h[t, j] for j in range(J)) for u in range(W_Q.shape[1])] for t in range(T)]
        key = [[sum(W_K[k, u, j] * h[t, j] for j in range(J)) for u in range(W_Q.shape[1])] for t in range(T)]
        for t1 in range(T):
            seen = range(t1 + 1) if causal else range(T)
            weights = [math.exp(sum(a * b for a, b in zip(query[t1], key[t2], strict=True))) for t2 in seen]
            for i in range(I):
                values = [sum(W_V[k, i, j] * h[t2, j] for j in range(J)) for t2 in seen]
                out[t1, k * I + i] = sum(a * v for a, v in zip(weights, values, strict=True)) / sum(weights)
    return out


@pytest.mark.parametrize("causal", [False, True])
def test_equals_loops_over_the_lecture_s_indices(causal):
    attention, h = layer(), vectors(T, J)
    torch.testing.assert_close(attention(h, causal), loops(attention, h, causal), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
def test_equals_torch_s_attention_with_scale_one(causal):
    attention, h = layer(), vectors(2, T, J)
    query, key, value = (
        torch.stack([h @ weight.T for weight in weights], 1)  # (B, K, T, .)
        for weights in (attention.W_Q, attention.W_K, attention.W_V)
    )
    expected = scaled_dot_product_attention(query, key, value, is_causal=causal, scale=1.0)
    torch.testing.assert_close(attention(h, causal), torch.cat(expected.unbind(1), -1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_equals_gpt2_s_block_under_the_mapping(implementation):
    config = GPT2Config(n_embd=J, n_head=K, n_layer=1, attn_pdrop=0.0, resid_pdrop=0.0)
    config._attn_implementation = implementation
    block, attention, x = GPT2Block(config, layer_idx=0).double().eval(), layer(I), vectors(2, T, J)
    attention.to_gpt2(block.attn)
    mask = torch.full((T, T), -math.inf, dtype=torch.float64).triu(1).expand(2, 1, T, T)
    found = block(x, attention_mask=mask)
    found = found[0] if isinstance(found, tuple) else found
    with torch.no_grad():
        middle = x + attention(block.ln_1(x), causal=True)
        expected = middle + block.mlp(block.ln_2(middle))
    torch.testing.assert_close(found.detach(), expected, rtol=1e-10, atol=1e-10)


def test_the_mapping_needs_queries_as_wide_as_values():
    block = GPT2Block(GPT2Config(n_embd=J, n_head=K), layer_idx=0)
    with pytest.raises(ValueError, match="U = 5 is not J / K"):
        LectureSelfAttention(J, K, 5).to_gpt2(block.attn)


def test_rows_sum_to_one_and_the_future_gets_nothing():
    alpha = layer().attention(vectors(T, J), causal=True)
    assert alpha.shape == (K, T, T)
    torch.testing.assert_close(alpha.sum(-1), torch.ones(K, T, dtype=torch.float64))
    assert not alpha.triu(1).any() and (alpha[:, 0, 0] == 1).all()


@pytest.mark.parametrize("positions", POSITIONS)
def test_no_bit_of_the_future_leaks(positions):
    model = LectureTransformer(words=9, width=16, heads=2, layers=2, length=16, positions=positions)
    words = torch.randint(9, (16,))
    before = model(words)
    for t in (1, 8, 15):
        changed = words.clone()
        changed[t] = (words[t] + 1) % 9
        after = model(changed)
        assert torch.equal(after[:t], before[:t]) and not torch.equal(after[t], before[t])


def test_without_positions_a_permutation_of_the_words_permutes_the_outputs():
    order, words = torch.randperm(T), torch.arange(T)
    for positions in POSITIONS:
        model = LectureTransformer(words=T, width=16, heads=2, layers=2, length=T, positions=positions).double()
        same = torch.allclose(model(words[order], causal=False), model(words, causal=False)[order])
        assert same == (positions == "none"), positions


def test_a_step_with_kept_keys_equals_the_whole_pass():
    attention, h, past = layer(), vectors(2, T, J), None
    whole, steps = attention(h, causal=True), []
    for t in range(T):
        out, past = attention.step(h[:, t : t + 1], past)
        steps.append(out)
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-12, atol=1e-12)


def test_one_table_at_the_bottom_and_at_the_top():
    """The lecture's softmax_w e[w, I] h_top[t, I]; with dyadic positions the first I of J components."""
    model = LectureTransformer(words=9, width=10, heads=2, layers=0, length=8, positions="dyadic")
    words = torch.tensor([3, 1, 4])
    assert model.bottom(words).shape == (3, 10 + 2 * 3)
    torch.testing.assert_close(model(words), model.e[words] @ model.e.T)
    assert sum(weight.numel() for weight in model.parameters()) == 90


def test_what_does_not_fit():
    with pytest.raises(ValueError, match="K = 5 must divide J = 12"):
        LectureSelfAttention(J, 5)
    with pytest.raises(ValueError, match="not 'cosine'"):
        LectureTransformer(9, 16, 2, 1, 8, positions="cosine")
