"""Analogies and similarity: closed forms, and gensim's counts and correlations on the same vectors."""

import numpy as np
import pytest
from gensim.models import KeyedVectors  # noqa: F401  what `to_keyed_vectors` makes
from scipy.stats import spearmanr

from hfssl.errors import InputError
from hfssl.evaluation import words as words_module
from hfssl.evaluation.significance import bootstrap_share, bootstrap_spearman
from hfssl.evaluation.vector_files import WordVectors
from hfssl.evaluation.words import (
    Pairs,
    find_pairs,
    nearest_words,
    random_vectors,
    read_analogies,
    read_pairs,
    score_pairs,
    solve_analogies,
    totals,
)

ROYAL = WordVectors(
    ["king", "queen", "man", "woman", "apple"], [[1, 0, 1], [1, 0, -1], [0, 1, 1], [0, 1, -1], [-1, -1, 0]]
)


def write(path, text):
    path.write_text(text)
    return path


def test_man_is_to_woman_as_king_is_to_queen(tmp_path):
    sections = read_analogies(
        write(tmp_path / "q.txt", ": family\nman woman king queen\nMan king WOMAN queen\nking queen man apple\n")
    )
    (answers,) = solve_analogies(ROYAL, sections)
    assert (answers.right, answers.asked, answers.known, answers.total) == (2, 3, 3, 3)
    assert answers.accuracy == 2 / 3
    (answers,) = solve_analogies(ROYAL, sections, match_case=True)
    assert (answers.right, answers.asked, answers.total) == (1, 2, 3)
    (answers,) = solve_analogies(ROYAL, sections, restrict=4)  # without apple the third question is not asked
    assert (answers.right, answers.asked, answers.known) == (2, 2, 2)
    (answers,) = solve_analogies(ROYAL, sections, restrict=4, count_unknown=True)
    assert (answers.right, answers.asked, answers.known) == (2, 3, 2)
    (answers,) = solve_analogies(ROYAL, sections, restrict=1)
    assert answers.asked == 0 and np.isnan(answers.accuracy)


def families(seed=0, pairs=40, width=12):
    """Pairs of words whose difference is nearly one vector, of which half occur in several cases, among other words."""
    rng = np.random.default_rng(seed)
    shift, base = rng.normal(size=width), rng.normal(size=(pairs, width))
    words, rows = [], []
    for number in range(pairs):
        for kind, row in (("low", base[number]), ("high", base[number] + shift)):
            for case in (str.lower, str.upper, str.capitalize)[: 1 + number % 3]:
                words.append(case(f"{kind}{number}"))
                rows.append(row + 0.35 * rng.normal(size=width) * (1 + (case is not str.lower)))
    # Seven ways to write one word, so near that no other is among the five nearest.
    for place in range(7):
        words.append("".join(c.upper() if place >> i & 1 else c for i, c in enumerate("low")) + "0x")
        rows.append(base[0] + 0.001 * rng.normal(size=width))
    order = rng.permutation(len(words))
    return WordVectors([words[i] for i in order], np.array(rows)[order])


def questions(vectors, seed=1, count=400):
    """Sections of questions on them: right ones, some with a word twice, with another case, or with an unknown word."""
    rng = np.random.default_rng(seed)
    lines = [": capitals of low"]
    for number in range(count):
        if number == count // 2:
            lines.append(": gram1 high to low")
        a, b = rng.integers(40, size=2)
        line = [f"low{a}", f"high{a}", f"low{b}", f"high{b}"]
        if number % 7 == 0:
            line[rng.integers(4)] = "nowhere"
        if number % 5 == 0:
            line[2], line[3] = line[0], line[1]
        if number % 11 == 0:
            line = [*rng.permutation(["low0x", "LOW0X", line[0], "low0x"])]
        lines.append("  ".join(word.upper() if number % 4 == 0 else word for word in line))
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("match_case", [False, True])
@pytest.mark.parametrize("count_unknown", [False, True])
@pytest.mark.parametrize("restrict", [30, 100, 30000])
def test_counts_are_gensim_s_in_each_section(tmp_path, match_case, count_unknown, restrict):
    vectors = families()
    path = write(tmp_path / "q.txt", questions(vectors))
    _, theirs = vectors.to_keyed_vectors().evaluate_word_analogies(
        str(path), restrict_vocab=restrict, case_insensitive=not match_case, dummy4unknown=count_unknown
    )
    sections = read_analogies(path)
    ours = solve_analogies(vectors, sections, restrict, match_case, count_unknown)
    counts = [(len(one["correct"]), len(one["correct"]) + len(one["incorrect"])) for one in theirs]
    assert [(one.right, one.asked) for one in ours] == counts[:-1]
    sums = totals(sections, ours)
    assert [one.name for one in sums] == ["semantic", "syntactic", "total"]
    assert [(one.right, one.asked) for one in sums] == counts
    if restrict == 30000:
        assert 0 < counts[-1][0] < counts[-1][1]  # some right, some wrong


def test_blocks_change_nothing(tmp_path, monkeypatch):
    vectors = families()
    sections = read_analogies(write(tmp_path / "q.txt", questions(vectors)))
    whole = solve_analogies(vectors, sections)
    monkeypatch.setattr(words_module, "_FLOATS", 1)
    assert solve_analogies(vectors, sections) == whole


def test_the_words_of_the_question_are_no_answers():
    """b - a + c is nearest to b and to c; with three words there is no answer."""
    unit = WordVectors(["a", "b", "c", "d"], [[1, 0.1, 0], [0.9, 0.2, 0], [0.8, 0.1, 0.1], [-1, 0, 0]]).unit
    assert words_module.answer(unit, np.arange(4), np.array([[0, 1, 2]])).tolist() == [3]
    assert words_module.answer(unit[:3], np.arange(3), np.array([[0, 1, 2]])).tolist() == [-1]


def test_a_file_of_one_kind_has_a_total_alone(tmp_path):
    sections = read_analogies(write(tmp_path / "q.txt", ": family\nman woman king queen\n"))
    assert [one.name for one in totals(sections, solve_analogies(ROYAL, sections))] == ["total"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b c d\n: family\na b c d\n", r"q\.txt:1: a question before the first section, a line ': NAME'"),
        (": family\n\na b c d\na b c\n", r"q\.txt:4: an analogy has four words, this line 3"),
        ("", "holds no analogies"),
        (": family\n: gram\n", "holds no analogies"),
    ],
)
def test_an_analogy_file_that_is_none(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_analogies(write(tmp_path / "q.txt", text))
    with pytest.raises(InputError, match="no such file"):
        read_analogies(tmp_path / "nowhere.txt")


@pytest.mark.parametrize("count_unknown", [False, True])
@pytest.mark.parametrize("match_case", [False, True])
def test_similarity_is_gensim_s(tmp_path, match_case, count_unknown):
    vectors, rng = families(), np.random.default_rng(2)
    lines = [
        f"low{a}\t{'HIGH' if a % 3 else 'high'}{b}\t{score:.1f}"
        for a, b, score in zip(
            rng.integers(50, size=200), rng.integers(50, size=200), rng.uniform(0, 10, 200), strict=True
        )
    ]
    path = write(tmp_path / "pairs.txt", "# people's\n" + "\n".join(lines) + "\n")
    _, theirs, unknown = vectors.to_keyed_vectors().evaluate_word_pairs(
        str(path), case_insensitive=not match_case, dummy4unknown=count_unknown
    )
    found = score_pairs(vectors, read_pairs(path), match_case, count_unknown)
    assert found.spearman == pytest.approx(theirs[0], abs=1e-12)
    assert found.total == 200 and 0 < found.known < 200
    if not count_unknown:  # gensim's share with it is of more pairs than there are
        assert unknown == pytest.approx(100 * (1 - found.known / 200))
    assert len(found.scores) == (200 if count_unknown else found.known)


def test_ties_share_their_rank():
    """Cosines of vectors of ones and minus ones are exact: many are equal, in gensim's arithmetic, too."""
    rng = np.random.default_rng(3)
    vectors = WordVectors([f"w{i}" for i in range(40)], rng.choice([-1, 1], size=(40, 16)))
    names = [tuple(f"w{i}" for i in pair) for pair in rng.integers(40, size=(150, 2))]
    pairs = Pairs("ties", names, rng.integers(5, size=150).astype(float))
    found = score_pairs(vectors, pairs)
    keyed = vectors.to_keyed_vectors()
    theirs = spearmanr(pairs.scores, [keyed.similarity(*pair) for pair in names])[0]
    assert found.spearman == pytest.approx(theirs, abs=1e-12) and len(np.unique(found.cosines)) < 20


def test_what_has_no_correlation_is_nan():
    pairs = Pairs("one", [("king", "queen"), ("man", "nowhere")], np.array([1.0, 2.0]))
    assert np.isnan(score_pairs(ROYAL, pairs).spearman)
    same = Pairs("same", [("king", "king"), ("man", "man")], np.array([1.0, 2.0]))
    assert np.isnan(score_pairs(WordVectors(["king", "man"], np.eye(2)), same).spearman)


@pytest.mark.parametrize(
    ("text", "pairs", "scores"),
    [
        ("sun\tsunlight\t50.0\nnew york\tcity\t-1e1\r\n", [("sun", "sunlight"), ("new york", "city")], [50, -10]),
        ("Word 1,Word 2,Human (mean)\nlove,sex,6.77\n", [("love", "sex")], [6.77]),  # WordSim-353's own
        (
            "word1\tword2\tPOS\tSimLex999\tconc(w1)\nold\tnew\tA\t1.58\t2.72\n", [("old", "new")], [1.58],
        ),  # SimLex-999's own
        ("squishing squirt 5.88 7 5 6\n", [("squishing", "squirt")], [5.88]),  # RW
        ("# a comment\n\nsun-n sunlight-n 50\n", [("sun-n", "sunlight-n")], [50]),
    ],
)  # fmt: skip
def test_forms_of_pairs(tmp_path, text, pairs, scores):
    found = read_pairs(write(tmp_path / "pairs.txt", text))
    assert found.words == pairs and found.scores.tolist() == scores and found.name == "pairs"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a b 1\nc d\n", r"pairs\.txt:2: a pair is two words and a score, not 'c d'"),
        ("w1,w2,score\na,b,much\n", r"pairs\.txt:2: a pair is two words and a score, not 'a,b,much'"),
        ("a b 1\nc nan\n", r"pairs\.txt:2: "),
        ("\t\t1\n", r"pairs\.txt:1: "),
        ("# nothing\n", "holds no pairs"),
        ("some words\n", "holds no pairs"),
    ],
)
def test_pairs_without_numbers(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        read_pairs(write(tmp_path / "pairs.txt", text))


def test_folders_of_pairs(tmp_path):
    write(tmp_path / "men.txt", "a b 1\n")
    write(tmp_path / "analogies.txt", "\n: family\na b c d\n")
    write(tmp_path / "README.md", "no pairs")
    assert [pairs.name for pairs in find_pairs([tmp_path])] == ["men"]
    with pytest.raises(InputError, match="two files of pairs are called 'men'"):
        find_pairs([tmp_path, tmp_path / "men.txt"])
    with pytest.raises(InputError, match="no file of pairs in"):
        find_pairs([tmp_path.parent])
    with pytest.raises(InputError, match="no such file"):
        find_pairs([tmp_path / "nowhere"])


def test_nearest_words_are_gensim_s():
    vectors = families()
    theirs = vectors.to_keyed_vectors().most_similar("low3", topn=8)
    found = nearest_words(vectors, "low3", 8)
    assert [word for word, _ in found] == [word for word, _ in theirs]
    assert np.allclose([cosine for _, cosine in found], [cosine for _, cosine in theirs], atol=1e-6)
    assert len(nearest_words(ROYAL, "king", 99)) == 4
    with pytest.raises(InputError, match=r"'quen' has no vector; did you mean 'queen'"):
        nearest_words(ROYAL, "quen")


def test_case_counts_among_nearest_words_only_where_it_is_to():
    vectors = WordVectors(["king", "King", "queen"], np.array([[1, 0], [0, 1], [1, 0.1]], np.float32))
    assert nearest_words(vectors, "KING", 1) == nearest_words(vectors, "king", 1)
    assert nearest_words(vectors, "King", 1) != nearest_words(vectors, "king", 1)  # as it is written comes first
    with pytest.raises(InputError, match="'KING' has no vector"):
        nearest_words(vectors, "KING", 1, match_case=True)


def test_random_vectors_are_seeded_and_know_nothing():
    first, again, other = (random_vectors(ROYAL, seed) for seed in (0, 0, 1))
    assert first.words == ROYAL.words and first.vectors.shape == ROYAL.vectors.shape
    assert np.array_equal(first.vectors, again.vectors) and not np.array_equal(first.vectors, other.vectors)


def test_draws_of_a_share_have_its_law():
    draws = bootstrap_share(30, 100, draws=20000, seed=0)
    assert draws.mean() == pytest.approx(0.3, abs=0.002) and draws.std() == pytest.approx((0.21 / 100) ** 0.5, rel=0.03)


def test_draws_of_a_correlation_are_those_of_drawn_pairs():
    rng = np.random.default_rng(4)
    truth = rng.integers(6, size=60).astype(float)
    found = np.round(truth + rng.normal(size=60) * 2)
    draws = bootstrap_spearman(found, truth, draws=30, seed=5)
    pairs, counts = np.unique(np.stack([found, truth], axis=1), axis=0, return_counts=True)
    drawn = np.random.default_rng(5).multinomial(60, counts / 60, size=30)
    expected = [spearmanr(*np.repeat(pairs, times, axis=0).T)[0] for times in drawn]
    assert np.allclose(draws, expected, atol=1e-12)
