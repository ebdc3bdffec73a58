"""Decoding, against loops that run the whole model for each token, brute force, and transformers' own generate."""

import itertools

import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig, TopPLogitsWarper

from hfssl.benchmarking import numbered_tokenizer
from hfssl.errors import InputError
from hfssl.generation import Decoding, GPT2TopP, decode
from hfssl.generation import decoding as module
from tests.generation.tiny import CAUSAL, POSITIONS, SEQ2SEQ, constant_model, make_model, make_tokenizer, slow_greedy
from tests.generation.tiny import slow_log_p as log_p

PROMPTS = ["the cat", "dog", "and the mat sat on", "a man in a red hat goes", "dog"]
FIVE = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05])
GREEDY = Decoding(12, temperature=0)


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def prompts(tokenizer):
    return [tokenizer(text)["input_ids"] for text in PROMPTS]


def ids_of(found):
    return [[one.ids for one in tries] for tries in found]


@pytest.mark.parametrize("kind", [*CAUSAL, *SEQ2SEQ])
def test_greedy_with_a_cache_and_in_a_batch_is_the_whole_model_on_each_prompt_alone(kind, tokenizer, prompts):
    model = make_model(kind)
    found = decode(model, tokenizer, prompts, GREEDY)
    assert ids_of(found) == [[slow_greedy(model, prompt, 12)] for prompt in prompts]
    assert ids_of(found) == ids_of([decode(model, tokenizer, [prompt], GREEDY)[0] for prompt in prompts])
    for prompt, (one,) in zip(prompts, found, strict=True):
        assert one.log_p == pytest.approx(log_p(model, prompt, one.ids), abs=1e-3)
        assert one.text == tokenizer.decode(one.ids, skip_special_tokens=True)


@pytest.mark.parametrize("kind", [*CAUSAL, *SEQ2SEQ])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
def test_beams_in_a_batch_are_those_of_each_prompt_alone_and_have_generate_s_scores(kind, penalty, tokenizer, prompts):
    model, how = make_model(kind), Decoding(6, temperature=0, num_beams=3, length_penalty=penalty)
    found = decode(model, tokenizer, prompts, how, tries=3)
    for prompt, tries in zip(prompts, found, strict=True):
        alone = decode(model, tokenizer, [prompt], how, tries=3)[0]
        assert [one.ids for one in tries] == [one.ids for one in alone]
        stock = model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), num_beams=3,
            num_return_sequences=3, max_new_tokens=6, length_penalty=penalty, return_dict_in_generate=True,
            output_scores=True, do_sample=False, pad_token_id=5,
        )  # fmt: skip
        scores = [one.log_p / len(one.ids) ** penalty for one in tries]
        torch.testing.assert_close(torch.tensor(scores), stock.sequences_scores, atol=1e-3, rtol=1e-4)
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("end", [None, 4])
def test_with_enough_beams_the_likeliest_text_is_found(end):
    torch.manual_seed(1)
    model = make_model("gpt2", vocab_size=5, bos_token_id=None, eos_token_id=end)
    texts = set()
    for text in itertools.product(range(5), repeat=3):
        texts.add(text[: text.index(end) + 1] if end in text else text)
    scores = {text: log_p(model, [1, 2], list(text)) for text in texts}
    best = sorted(scores, key=scores.get, reverse=True)
    how = Decoding(3, temperature=0, num_beams=60, length_penalty=0)
    found = decode(model, numbered_tokenizer(5), [[1, 2]], how, tries=4)[0]
    assert [tuple(one.ids) for one in found] == best[:4]
    greedy = decode(model, numbered_tokenizer(5), [[1, 2]], Decoding(3, num_beams=1, temperature=0))[0][0]
    assert scores[tuple(greedy.ids)] <= scores[best[0]]


def test_a_temperature_near_0_and_the_likeliest_token_alone_are_greedy(tokenizer, prompts):
    model = make_model()
    expected = [[one.ids for one in tries] * 3 for tries in decode(model, tokenizer, prompts, GREEDY)]
    for how in (Decoding(12, temperature=1e-5), Decoding(12, top_k=1), Decoding(12, top_p=1e-6), GREEDY):
        assert ids_of(decode(model, tokenizer, prompts, how, tries=3)) == expected
    assert Decoding(12, temperature=1e-5).samples and not Decoding(12, top_k=1).samples


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, FIVE),
        ({"top_k": 5, "top_p": 1.0}, FIVE),
        ({"temperature": 0.5}, FIVE**2),
        ({"top_k": 3}, FIVE * torch.tensor([1, 1, 1, 0, 0])),
        ({"top_p": 0.8}, FIVE * torch.tensor([1, 1, 0, 0, 0])),  # the third crosses
        ({"top_p": 0.8, "top_p_rule": "transformers"}, FIVE * torch.tensor([1, 1, 1, 0, 0])),
        # First the temperature, then top-k, then top-p: .55, .31, .08, .03 of the squares, of which three are left.
        ({"temperature": 0.5, "top_k": 3, "top_p": 0.95}, FIVE**2 * torch.tensor([1, 1, 0, 0, 0])),
    ],
)
def test_tokens_come_as_often_as_they_are_likely(settings, expected):
    model, count = constant_model(FIVE.log()), 4000
    how = Decoding(1, seed=11, **settings)
    tries = decode(model, numbered_tokenizer(5), [[1, 2, 3]], how, count)[0]
    counts = torch.bincount(torch.tensor([one.ids[0] for one in tries]), minlength=5)
    expected = expected / expected.sum() * count
    assert counts[expected == 0].sum() == 0
    assert (
        chisquare(counts[expected > 0], expected[expected > 0].double() * count / expected.double().sum()).pvalue > 1e-3
    )
    for one in tries[:50]:
        assert one.log_p == pytest.approx(float(FIVE[one.ids[0]].log()), abs=1e-5)  # of the model, not of the sampler


def test_gpt2_s_top_p_rule_leaves_the_crossing_token_out():
    p = torch.tensor([[0.1, 0.5, 0.25, 0.15], [0.97, 0.01, 0.01, 0.01], [0.25, 0.25, 0.25, 0.25]])

    def kept(rule, top_p):
        return (rule(top_p)(None, p.log()) > -torch.inf).int().tolist()

    # Sorted .5 .25 .15 .1, cumulative .5 .75 .9 1: at .8 two stay; nothing is at most .8 in the second row: one stays;
    # of equals, all that are as likely as the last that stays.
    assert kept(GPT2TopP, 0.8) == [[0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert kept(TopPLogitsWarper, 0.8) == [[0, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert kept(GPT2TopP, 0.76) == [[0, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert kept(GPT2TopP, 0.74) == [[0, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert kept(GPT2TopP, 0.0)[0] == [0, 1, 0, 0]


@pytest.mark.parametrize("kind", [*CAUSAL, *SEQ2SEQ])
def test_samples_are_generate_s_own_and_their_log_p_is_the_model_s(kind, tokenizer, prompts):
    model = make_model(kind)
    how = Decoding(8, temperature=0.9, top_k=20, top_p=0.9, top_p_rule="transformers", seed=5)
    tries = decode(model, tokenizer, prompts[3:4], how, tries=4)[0]
    torch.manual_seed(5)
    stock = model.generate(
        torch.tensor(prompts[3:4]), attention_mask=torch.ones(1, len(prompts[3]), dtype=torch.long), do_sample=True,
        temperature=0.9, top_k=20, top_p=0.9, num_return_sequences=4, max_new_tokens=8, pad_token_id=5,
    )  # fmt: skip
    stock = stock[:, 1 if kind in SEQ2SEQ else len(prompts[3]) :].tolist()
    assert [row[: len(one.ids)] for row, one in zip(stock, tries, strict=True)] == [one.ids for one in tries]
    for one in tries:
        assert one.log_p == pytest.approx(log_p(model, prompts[3], one.ids), abs=1e-3)
        assert one.mean_log_p == pytest.approx(one.log_p / len(one.ids))


@pytest.mark.parametrize("kind", CAUSAL)
def test_a_prompt_that_is_read_once_gives_what_it_gives_read_for_each_try(kind, tokenizer, prompts, monkeypatch):
    model, how = make_model(kind), Decoding(10, seed=2)
    made = []
    shared = module.shared_prompts
    monkeypatch.setattr(module, "shared_prompts", lambda *given: made.append(shared(*given)) or made[-1])
    once = decode(model, tokenizer, prompts, how, tries=3)
    assert made and all(len(options) == 1 for options in made)
    monkeypatch.setattr(module, "shared_prompts", lambda *given: {})
    assert ids_of(once) == ids_of(decode(model, tokenizer, prompts, how, tries=3))


def test_texts_end_where_the_positions_end_also_in_a_batch(tokenizer, prompts):
    model = make_model(eos_token_id=None)
    long = (prompts[3] * 10)[: POSITIONS - 3]
    found = decode(model, tokenizer, [prompts[0], long, prompts[2]], Decoding(20, temperature=0))
    assert [len(tries[0].ids) for tries in found] == [20, 3, 20]
    assert found[1][0].ids == slow_greedy(model, long, 3)
    assert all(len(tries[0].ids) <= POSITIONS for tries in decode(model, tokenizer, prompts, Decoding(999)))


def test_models_without_an_end_or_padding(prompts):
    model = constant_model([-9.0, -9.0, -9.0, 0.0, -9.0])
    tokenizer = numbered_tokenizer(5)
    tokenizer.pad_token = None
    assert tokenizer.eos_token_id is None
    for how in (Decoding(4, temperature=0), Decoding(4, seed=1, temperature=0.5), Decoding(4, num_beams=2)):
        assert ids_of(decode(model, tokenizer, [[1], [1, 2, 3]], how)) == [[[3] * 4]] * 2


def test_the_end_may_be_known_to_the_tokenizer_or_the_model_alone(tokenizer):
    ended = constant_model([-9.0, -9.0, -9.0, 0.0, -9.0])
    words = numbered_tokenizer(5)
    assert decode(ended, words, [[1]], Decoding(4, temperature=0))[0][0].ids == [3] * 4
    words.eos_token = words.convert_ids_to_tokens(3)
    assert decode(ended, words, [[1]], Decoding(4, temperature=0))[0][0].ids == [3]
    assert decode(ended, numbered_tokenizer(5), [[1]], Decoding(4, temperature=0, end_tokens=(2, 3)))[0][0].ids == [3]
    ended.generation_config.eos_token_id = [4, 3]
    assert decode(ended, numbered_tokenizer(5), [[1]], Decoding(4, temperature=0))[0][0].ids == [3]


def test_the_model_s_own_settings_do_not_count_and_come_back(tokenizer, prompts):
    model = make_model()
    expected, sampled = (ids_of(decode(model, tokenizer, prompts, how)) for how in (GREEDY, Decoding(12)))
    own = GenerationConfig(
        do_sample=True, temperature=3.0, top_k=7, top_p=0.5, min_p=0.3, typical_p=0.2, repetition_penalty=9.0,
        no_repeat_ngram_size=1, num_beams=1, max_new_tokens=2, min_new_tokens=2, eos_token_id=0, bos_token_id=0,
    )  # fmt: skip
    model.generation_config = own
    model.train()
    assert ids_of(decode(model, tokenizer, prompts, GREEDY)) == expected
    assert ids_of(decode(model, tokenizer, prompts, Decoding(12))) == sampled
    assert model.generation_config is own and model.training
    with pytest.raises(IndexError):
        decode(model, tokenizer, [[999]], GREEDY)
    assert model.generation_config is own and model.training


def test_seeds_repeat_and_the_caller_s_random_numbers_stay(tokenizer, prompts):
    model = make_model()
    expected = torch.manual_seed(5) and torch.rand(2)
    torch.manual_seed(5)
    first = ids_of(decode(model, tokenizer, prompts, Decoding(9, seed=1), tries=4))
    assert torch.equal(torch.rand(2), expected)
    torch.rand(3)
    assert ids_of(decode(model, tokenizer, prompts, Decoding(9, seed=1), tries=4)) == first
    assert ids_of(decode(model, tokenizer, prompts, Decoding(9, seed=2), tries=4)) != first


def test_what_need_not_be_scored_is_not(tokenizer, prompts, monkeypatch):
    monkeypatch.setattr(module, "sequence_scores", None)
    monkeypatch.setattr(module, "_LogP", None)
    model = make_model()
    for how in (GREEDY, Decoding(5, num_beams=2)):
        assert decode(model, tokenizer, prompts[:2], how, scored=False)[0][0].log_p == 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"top_p_rule": "gpt"}, "unknown top_p_rule 'gpt': one of gpt2, transformers; did you mean 'gpt2'"),
        ({"temperature": -1.0}, "temperature must be at least 0, not -1.0"),
        ({"temperature": float("nan")}, "temperature must be at least 0, not nan"),
        ({"top_p": 1.5}, "top_p must be from 0 to 1, not 1.5"),
        ({"top_k": -1}, "top_k must be at least 0, not -1"),
        ({"num_beams": 0}, "num_beams must be at least 1, not 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, not 0"),
        ({"length_penalty": float("inf")}, "length_penalty must be a number, not inf"),
        ({"seed": 2**64}, f"seed must be of 64 bits, not {2**64}"),
    ],
)
def test_settings_out_of_their_range(settings, says):
    with pytest.raises(InputError, match=says):
        Decoding(**settings)


def test_prompts_and_tries_that_cannot_be(tokenizer, prompts):
    for tries, beams, says in ((3, 2, "3 tries cannot be had of 2 beams"), (0, 1, "0 tries cannot be had")):
        with pytest.raises(InputError, match=says):
            decode(make_model(), tokenizer, prompts, Decoding(num_beams=beams), tries)
    for prompt, says in (([], "the prompt is empty"), ([7] * POSITIONS, f"the prompt has {POSITIONS} tokens")):
        with pytest.raises(InputError, match=says):
            decode(make_model(), tokenizer, [prompts[0], prompt], GREEDY)
    assert decode(make_model(), tokenizer, [], GREEDY) == []
