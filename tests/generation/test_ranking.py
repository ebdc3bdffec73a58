"""Which of several tries is chosen, by what, and what is refused."""

import pytest
import torch

from hfssl.errors import InputError
from hfssl.generation import Decoding, Try, continue_text, decode, rank, sample_and_rank
from hfssl.generation.loading import fit_prompt
from hfssl.generation.ranking import repeated_share, repeats_a_turn
from tests.generation.tiny import POSITIONS, make_model, make_tokenizer, slow_log_p


@pytest.fixture(scope="module")
def tokenizer():
    return make_tokenizer()


@pytest.fixture(scope="module")
def prompt(tokenizer):
    return tokenizer("a man in")["input_ids"]


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
def test_the_chosen_one_has_the_highest_log_p_a_token_computed_anew(kind, tokenizer, prompt):
    model = make_model(kind)
    found = sample_and_rank(model, tokenizer, prompt, n=12, max_new_tokens=10)
    means = [slow_log_p(model, prompt, one.ids) / len(one.ids) for one in found.tries]
    said = [number for number, one in enumerate(found.tries) if one.text.strip()]
    assert found.chosen == max(said, key=means.__getitem__) and found.best is found.tries[found.chosen]
    assert [one.score for one in found.tries] == pytest.approx(means, abs=1e-4)
    assert found.scorer == "mean log p" and len({one.text for one in found.tries}) > 1


def test_one_try_is_one_sample(tokenizer, prompt):
    model = make_model()
    found = sample_and_rank(model, tokenizer, prompt, n=1, seed=4, max_new_tokens=10)
    sample = decode(model, tokenizer, [prompt], Decoding(10, temperature=0.88, seed=4))[0][0]
    assert (found.best.ids, found.best.log_p) == (sample.ids, sample.log_p) and len(found.tries) == 1


def test_seeds_repeat(tokenizer, prompt):
    model = make_model()
    torch.manual_seed(0)
    first = sample_and_rank(model, tokenizer, prompt, seed=4, max_new_tokens=10)
    assert first == sample_and_rank(model, tokenizer, prompt, seed=4, max_new_tokens=10)
    assert first.tries != sample_and_rank(model, tokenizer, prompt, seed=5, max_new_tokens=10).tries


ONE = [Try("a b", [1, 2], -2.0), Try("c", [3], -1.5), Try("d d d d d d", [4] * 6, -0.6)]


def test_scorers():
    by = {name: rank(ONE, name) for name in ("mean", "sum", "repeats")}
    assert [one.score for one in by["mean"].tries] == pytest.approx([-1.0, -1.5, -0.1]) and by["mean"].chosen == 2
    assert [one.score for one in by["sum"].tries] == pytest.approx([-2.0, -1.5, -0.6]) and by["sum"].chosen == 2
    # Of the last one's three 4-grams two occurred before.
    assert by["repeats"].tries[2].score == pytest.approx(-0.1 - 5 * 2 / 3) and by["repeats"].chosen == 0
    assert by["repeats"].scorer == "mean log p - 5 x share of repeated 4-grams"

    def shortest(one):
        return -len(one.text)

    assert (rank(ONE, shortest).chosen, rank(ONE, shortest).scorer) == (1, "shortest")
    assert rank([ONE[0], ONE[0]]).chosen == 0
    with pytest.raises(InputError, match="unknown scorer 'men': one of mean, sum, repeats; did you mean 'mean'"):
        rank(ONE, "men")


def test_repeats_in_a_text():
    assert repeated_share([1, 2, 3]) == 0 == repeated_share([1, 2, 3, 4, 5])
    assert repeated_share([1, 2, 3, 4, 1, 2, 3, 4]) == pytest.approx(1 / 5)


def test_repeats_of_an_earlier_turn():
    turns = ["I went to the market on Sunday.", "Oh, really?"]
    assert repeats_a_turn("well, I WENT to the market", turns)
    assert not repeats_a_turn("I went to a market on Sunday", turns)  # four words and three
    assert not repeats_a_turn("Oh, really?", turns) and not repeats_a_turn("", turns)
    tries = [Try(text, [1], log_p) for text, log_p in (("we went to the market on Sunday", -1.0), ("yes", -2.0))]
    found = rank(tries, "sum", turns)
    assert (found.chosen, found.removed) == (1, (0,))
    assert rank(tries[:1], "sum", turns).chosen == 0  # something must be said


def test_nothing_is_said_only_if_there_is_nothing_else():
    tries = [Try(" \n", [0], -0.1), Try("yes", [1], -2.0), Try("", [0], -0.2)]
    assert (rank(tries).chosen, rank(tries).removed) == (1, (0, 2))
    assert rank([tries[0], tries[2]]).chosen == 0


@pytest.mark.parametrize("kind", ["gpt2", "bart"])
def test_a_prompt_over_the_positions(kind, tokenizer):
    model = make_model(kind)
    text = " cat" * POSITIONS + " the dog"
    ids = tokenizer(text)["input_ids"]
    says = f"the prompt has {len(ids)} tokens, the model has {POSITIONS} positions; shorten it, or keep its end with "
    with pytest.raises(InputError, match=says + "--truncate_left"):
        continue_text(model, tokenizer, text)
    with pytest.raises(InputError, match=says):
        sample_and_rank(model, tokenizer, ids)
    room = POSITIONS if kind == "bart" else POSITIONS - 9
    found = continue_text(model, tokenizer, text, tries=2, max_new_tokens=9, truncate_left=True)
    expected = decode(model, tokenizer, [ids[-room:]], Decoding(9, top_k=40), tries=2)[0]
    assert [one.ids for one in found.tries] == [one.ids for one in expected]
    assert sample_and_rank(model, tokenizer, ids, 2, 1.0, 40, 9, truncate_left=True) == found


def test_the_end_is_kept_of_a_prompt_that_is_too_long_alone_and_half_the_positions_at_least():
    model, ids = make_model(), list(range(POSITIONS + 5))
    assert fit_prompt(model, ids[: POSITIONS - 1], True, room=POSITIONS) == ids[: POSITIONS - 1]
    assert fit_prompt(model, ids, True, room=POSITIONS) == fit_prompt(model, ids, True, 999) == ids[-POSITIONS // 2 :]
    assert fit_prompt(model, ids, True, room=1) == ids[-POSITIONS + 1 :]
    assert fit_prompt(make_model("bart"), ids, True, room=9) == ids[-POSITIONS:]


def test_an_encoder_reads_a_prompt_as_long_as_its_positions(tokenizer):
    full = [7] * POSITIONS
    assert sample_and_rank(make_model("bart"), tokenizer, full, 2).tries
    with pytest.raises(InputError, match="the prompt has 40 tokens"):
        sample_and_rank(make_model(), tokenizer, full, 2)


def test_an_empty_prompt(tokenizer):
    for kind in ("gpt2", "bart"):
        with pytest.raises(InputError, match="the prompt is empty"):
            continue_text(make_model(kind), tokenizer, "")
        with pytest.raises(InputError, match="the prompt is empty"):
            sample_and_rank(make_model(kind), tokenizer, [])
