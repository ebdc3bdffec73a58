"""Windows that predict each token once, plain text by hand, and perplexities against sums over single tokens."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from eval.run_zero_shot import main
from hfssl.errors import InputError
from hfssl.evaluation.zero_shot import Windows, detokenize, score_corpus, score_last_words
from hfssl.tokenization import train_bpe

LINES = [" = A <unk> = ", ' The cat , 1 @,@ 000 years old , did n\'t sit on the " old mat " . ', "", " The dog sat . "]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    tokenizer = train_bpe([" ".join(LINES) * 20], 300, show_progress=False)
    end = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=32, bos_token_id=end, eos_token_id=end
    )
    config.initializer_range = 0.5  # so that contexts matter
    return GPT2LMHeadModel(config).eval(), tokenizer


@pytest.mark.parametrize(
    ("words", "plain"),
    [
        ("The cat , 1 @,@ 000 years old , did n't sit .", "The cat, 1,000 years old, didn't sit."),
        ('He said " no " and " well , yes ! " .', 'He said "no" and "well, yes!".'),
        ("Teddy 's high @-@ school ( the dogs ' ) cost $ 3 @.@ 5", "Teddy's high-school (the dogs') cost $3.5"),
        (" = = Robert <unk> = = ", "= = Robert <unk> = ="),
        ("he 's here ; it is 5 %", "he's here; it is 5%"),
    ],
)
def test_plain_text_by_hand(words, plain):
    assert detokenize(words, "WikiText-2") == plain


def test_the_penn_treebank_in_plain_text():
    line = " the company 's shares did n't fall below $ N or the banks ' N % "
    assert detokenize(line, "PTB") == "the company's shares didn't fall below $N or the banks' N%"


@pytest.mark.parametrize(
    ("size", "context", "stride"), [(50, 16, 8), (50, 16, 15), (16, 16, 8), (5, 16, 8), (17, 16, 1)]
)
def test_each_token_is_predicted_once_with_what_is_before_it(size, context, stride):
    windows, predicted = Windows(range(size), context, stride), []
    for index in range(len(windows)):
        item = windows[index]
        new = item["labels"][item["labels"] >= 0]
        predicted += new.tolist()
        assert len(item["input_ids"]) == min(context, size)
        assert index == 0 or (len(new) <= stride and new[0] - item["input_ids"][0] >= context - stride)
    assert predicted == list(range(1, size))
    with pytest.raises(InputError, match="between 1 and 15"):
        Windows(range(size), 16, 16)


@torch.no_grad()
def test_perplexity_of_a_word_against_a_loop(model, tmp_path):
    (tmp_path / "wiki.txt").write_text("\n".join(LINES) + "\n")
    found = score_corpus(*model, tmp_path / "wiki.txt", "WikiText-2", context=8, stride=3, batch_size=2)
    text = '= A <unk> =\nThe cat, 1,000 years old, didn\'t sit on the "old mat".\n\nThe dog sat.\n'
    ids = torch.tensor([model[1].eos_token_id, *model[1](text)["input_ids"]])
    total, seen = 0.0, []
    for at in range(1, len(ids)):
        # Of windows that end at 8, 11, 14, ... the first that holds the token.
        end = min(len(ids), 8 if at < 8 else 8 + 3 * math.ceil((at - 7) / 3))
        start = max(0, end - 8)
        total -= float(model[0](ids[None, start:at]).logits[0, -1].double().log_softmax(-1)[ids[at]])
        seen.append(at - start)
    assert min(seen[8:]) >= 5
    words = 4 + 19 + 0 + 4 + 4  # a line end is one
    assert found.words == words and found.tokens == len(ids) - 1
    assert found.word_perplexity == pytest.approx(math.exp(total / words), rel=1e-4)
    assert found.token_perplexity == pytest.approx(math.exp(total / (len(ids) - 1)), rel=1e-4)
    assert found.bits_per_byte == pytest.approx(total / math.log(2) / len("\n".join(LINES) + "\n"), rel=1e-4)


@torch.no_grad()
def test_last_words_against_one_at_a_time(model):
    network, tokenizer = model
    passages = ["The cat sat on the mat", "The dog did sit", "The old mat sat on the old cat and the dog"]
    log_p, right = 0.0, 0
    for passage in passages:
        before, _, word = passage.rpartition(" ")
        ids, target = tokenizer(before)["input_ids"], tokenizer(" " + word)["input_ids"]
        hits = []
        for token in target:
            scores = network(torch.tensor([ids])).logits[0, -1].double().log_softmax(-1)
            log_p += float(scores[token])
            hits.append(int(scores.argmax()) == token)
            ids = [*ids, token]
        right += all(hits)
    found = score_last_words(network, tokenizer, passages, context=32, batch_size=2)
    assert found.passages == 3 and found.accuracy == right / 3
    assert found.perplexity == pytest.approx(math.exp(-log_p / 3), rel=1e-4)


class Always:
    """Finds one token the likeliest, whatever comes before."""

    device = "cpu"

    def __init__(self, token, size):
        self.logits = torch.nn.functional.one_hot(torch.tensor(token), size) * 5.0

    def __call__(self, input_ids, attention_mask):
        return SimpleNamespace(logits=self.logits.expand(*input_ids.shape, -1))


def test_a_word_is_right_if_all_its_tokens_are_the_likeliest(model):
    tokenizer = model[1]
    [mat] = tokenizer(" mat")["input_ids"]
    assert len(tokenizer(" matmat")["input_ids"]) > 1
    passages = ["The cat sat on the mat", "on the dog", "The mat matmat"]
    found = score_last_words(Always(mat, len(tokenizer)), tokenizer, passages, context=32)
    assert found.accuracy == pytest.approx(1 / 3)
    with pytest.raises(InputError, match="at least two words"):
        score_last_words(model[0], tokenizer, ["cat"], context=32)


def test_the_program(model, tmp_path, capsys):
    for part in model:
        part.save_pretrained(tmp_path / "gpt")
    (tmp_path / "wiki.txt").write_text("\n".join(LINES) + "\n")
    (tmp_path / "lambada.jsonl").write_text(json.dumps({"text": "The cat sat on the mat"}) + "\n")
    files = ["--wikitext2", str(tmp_path / "wiki.txt"), "--lambada", str(tmp_path / "lambada.jsonl")]
    found = main(["--model", str(tmp_path / "gpt"), *files, "--stride", "5", "--out", str(tmp_path / "out.json")])
    assert set(found) == {"WikiText-2", "LAMBADA"}
    captured = capsys.readouterr()
    said = " ".join(captured.out.split())
    assert "Loading weights" not in captured.err and "(--limit)" not in said
    assert f"{found['WikiText-2'].unigram:,.2f}" in said
    assert "windows of 32 tokens, stride 5" in said and "detokenised by our rules" in said
    assert json.loads((tmp_path / "out.json").read_text())["rows"][0]["words"] == 31
    main(["--model", str(tmp_path / "gpt"), *files, "--limit", "2"])
    assert ": the first 2 lines or passages alone (--limit)" in " ".join(capsys.readouterr().out.split())
    for flags, message in (
        ([], "name a corpus"),
        (["--ptb", "none.txt"], "no such file: 'none.txt'"),
        ([*files, "--batch_size", "0"], "--batch_size and --limit must be at least 1"),
        ([*files, "--limit", "-1"], "--batch_size and --limit must be at least 1"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["--model", str(tmp_path / "gpt"), *flags])
        assert stopped.value.code == 2 and message in capsys.readouterr().err
