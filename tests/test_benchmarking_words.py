"""Word vectors beside gensim's: the same words, settings and order; which rates and seeds are run; what is no arm."""

import gensim.models
import numpy as np
import pytest
import scipy.stats

from hfssl.benchmarking_words import (
    GENSIM,
    OURS,
    PEER,
    RATES,
    Setting,
    best_rate,
    check_choice,
    print_quality,
    quality_jobs,
    quality_rows,
    train_arm,
)
from hfssl.errors import InputError

SENTENCES = [["b", "a", "c", "rare"], ["a", "b", "d"]] * 6 + [["rest"]]
SETTING = Setting(rate=0.07, epochs=2, threads=1, width=4, window=2, buckets=20)


@pytest.mark.parametrize("arm", ["hfssl CBOW", "gensim CBOW", "gensim FastText CBOW"])
def test_arms_have_the_same_words_in_the_same_order(arm):
    """By frequency, then by the word: the questions are asked among the first ones."""
    found = train_arm(arm, SENTENCES, SETTING)
    assert found.vectors.words == ["a", "b", "c", "d", "rare"] and found.vectors.counts.tolist() == [12, 12, 6, 6, 6]
    assert found.words == 42 and found.vectors.width == 4 and found.vectors.vectors.any()
    if arm in GENSIM:
        model = getattr(gensim.models, GENSIM[arm][0])(
            SENTENCES, vector_size=4, window=2, epochs=2, workers=1, alpha=0.07, seed=1,
            **({"bucket": 20} if "FastText" in arm else {}),
        )  # fmt: skip  # the rest as gensim has it, which is what `Setting` says
        assert np.array_equal(found.vectors.vectors, model.wv[found.vectors.words])


def test_every_arm_is_run_at_its_rates_and_then_at_its_best_with_all_seeds():
    assert set(RATES) == {*OURS, *GENSIM}
    assert RATES["hfssl CBOW"] == RATES["gensim CBOW"] and RATES["hfssl skip-gram"] == RATES["gensim skip-gram"]
    rates = {"gensim CBOW": (0.1, 0.2), "hfssl CBOW": (0.3,)}
    jobs = quality_jobs(rates, 2, {})
    assert list(jobs.values()) == [("gensim CBOW", 0.1, 1), ("gensim CBOW", 0.2, 1), ("hfssl CBOW", 0.3, 1)]
    scores = (5.0, 7.0, 2.0)
    known = {"known": {"analogies": 12, "MEN": 5}}
    done = {name: {"analogies": score, "MEN": 2 * score} | known for name, score in zip(jobs, scores, strict=True)}
    assert best_rate("gensim CBOW", (0.1, 0.2), done) == 0.2
    more = quality_jobs(rates, 2, done)
    assert {name: more[name] for name in more if name not in jobs} == {
        "gensim CBOW, 0.2, seed 2": ("gensim CBOW", 0.2, 2),
        "hfssl CBOW, 0.3, seed 2": ("hfssl CBOW", 0.3, 2),
    }
    done["gensim CBOW, 0.2, seed 2"] = {"analogies": 9.0, "MEN": 16.0} | known
    done["hfssl CBOW, 0.3, seed 2"] = {"analogies": 3.0, "MEN": 8.5} | known
    row, ours = quality_rows(rates, 2, done)
    assert row["rate"] == 0.2 and row["scores"] == {"analogies": [7.0, 9.0], "MEN": [14.0, 16.0]}
    assert row["spread"] == {"analogies": pytest.approx(2**0.5), "MEN": pytest.approx(2**0.5)}
    assert row["known"] == {"analogies": 12, "MEN": 5} and not row["less"]
    # Of (2, 3) and (7, 9) by hand: variances 0.5 and 2, standard error sqrt(1.25), 25 / 17 degrees of freedom.
    half = scipy.stats.t.ppf(0.975, 25 / 17) * 1.25**0.5
    assert ours["less"]["analogies"] == pytest.approx([-5.5, -5.5 - half, -5.5 + half])


def test_the_tables_fit_80_columns(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    scores = {"analogies": [33.0, 34.0], "MEN": [60.5, 59.5], "WS-353-ALL": [47.7, 46.5], "words/s": [8e5, 9e5]}
    known = {"analogies": 10131, "MEN": 2856, "WS-353-ALL": 344}
    done = {
        f"{arm}, {rate:g}, seed {seed + 1}": {name: values[seed] for name, values in scores.items()} | {"known": known}
        for arm in RATES
        for rate in RATES[arm]
        for seed in range(2)
    }
    print_quality(quality_rows(RATES, 2, done))
    printed = capsys.readouterr().out
    assert all(printed.count(arm) >= 1 + (arm != PEER) for arm in RATES), "no name is folded or cut"
    assert "33.5 ± 0.7" in printed and "+0.0 ± " in printed and "…" not in printed
    assert "over 2 seeds" in printed and "344 of WS-353-ALL" in printed
    print_quality(quality_rows({"hfssl CBOW": RATES["hfssl CBOW"]}, 1, done))
    alone = capsys.readouterr().out
    assert "one seed" in alone and "±" not in alone and "Welch" not in alone


def test_what_is_no_arm_or_mode():
    check_choice([None, "hfssl CBOW"], "quality")
    with pytest.raises(InputError, match=r"no arm 'gensim CBWO': one of .*; did you mean 'gensim CBOW'"):
        train_arm("gensim CBWO", SENTENCES, SETTING)
    with pytest.raises(InputError, match="no mode 'sped': one of speed, quality; did you mean 'speed'"):
        check_choice([], "sped")
