"""Word vectors: CBOW and skip-gram with negative sampling (Mikolov et al. 2013 and 2018; the lecture).

    accelerate launch recipes/pretrain_cbow.py --config recipes/cbow_small.yaml --text_path TEXT --output_dir out/cbow
    hfssl words out/cbow --analogies questions-words.txt --similarity wordsim353.tsv

One process without a GPU trains with compiled loops on all cores; else, or by `--engine trainer`, the Trainer does, in
batches. `model.gradient` is word2vec or exact, `model.subwords` ngrams (fastText) or bpe (the lecture);
`--phrase_passes 2` joins phrases first. What is saved loads with AutoModel, also where hfssl is not installed
(trust_remote_code=True), and with gensim: vectors.vec.
Two cores train 3.2 times gensim's words a second, with the same scores: `python benchmarks/words.py`.
"""

import logging

from transformers import set_seed

from hfssl.config import build_model, parse_config
from hfssl.data.sources import TextArguments
from hfssl.data.word_contexts import ContextCollator, WordContexts
from hfssl.data.word_corpus import WordCorpusArguments, load_word_corpus, train_pieces
from hfssl.errors import InputError, exits_on_bad_input
from hfssl.models import CBOWConfig, CBOWForPreTraining
from hfssl.training import PretrainingArguments, run
from hfssl.training.words import RATE, EngineTrainer, VectorTrainer, WordArguments

logger = logging.getLogger("hfssl.pretrain_cbow")


@exits_on_bad_input
def main(argv=None):
    config, text, reading, words, args = parse_config(
        TextArguments,
        WordCorpusArguments,
        WordArguments,
        PretrainingArguments,
        model=CBOWConfig,
        fixed={"vocab_size": "--min_count", "subword_entries": "--min_count"},
        argv=argv,
    )
    held_out = [name for name in ("eval_text_path", "eval_fraction") if args.given.get(name)]
    if held_out or args.eval_strategy != "no":
        flag = held_out[0] if held_out else "eval_strategy"
        raise InputError(f"--{flag} has no use here: word vectors have no held-out loss; hfssl words evaluates them")
    text.eval_fraction = 0
    batches = words.uses_trainer(args)
    if not batches and "learning_rate" not in args.given:
        args.learning_rate = RATE
    corpus = load_word_corpus(text, reading)
    logger.info("%s", corpus.source)
    config.vocab_size = len(corpus.words)
    pieces = train_pieces(corpus, config.subword_vocab_size) if config.subwords == "bpe" else None
    config.subword_vocab_size = 0 if pieces is None else len(pieces)

    set_seed(args.seed)
    model = build_model(CBOWForPreTraining, config)
    model.set_vocabulary(corpus.words, pieces)
    contexts = WordContexts(corpus, config, words.subsample, words.negatives, words.noise_exponent, args.seed)
    collator = ContextCollator(contexts, words.identity | {"engine": "trainer" if batches else "cpu"})
    settings = {"corpus": corpus, "pieces": pieces, "tokenized": reading.tokenized, "data_collator": collator}
    if batches:
        return run(VectorTrainer(model, args, train_dataset=contexts, **settings))
    return run(EngineTrainer(model, args, words=words, **settings))


if __name__ == "__main__":
    main()
