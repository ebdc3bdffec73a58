"""Part-of-speech induction: a code for each word that its context predicts (Stratos 2019).

    accelerate launch recipes/pretrain_tagger.py --config recipes/tagger_brown.yaml --text_path brown.txt
    hfssl tags out/tagger-brown --tagged_path BROWN

Deep co-training of words: maximises I(z_word; z_context) - beta H(z_word). The text is tokenised, a sentence a line and
white space between words; the vocabulary is made of it and saved beside the model, which loads with
AutoModelForPreTraining, also where hfssl is not installed (trust_remote_code=True).
Expected: see eval/README.md, which names the accuracy on the Brown corpus.
"""

import logging

from transformers import set_seed

from hfssl.config import build_model, parse_config
from hfssl.data.sources import TextArguments, load_texts
from hfssl.data.word_windows import (
    VocabularyArguments,
    WordWindows,
    collate_words,
    frequent_word_tokenizer,
    sentences_of,
)
from hfssl.errors import exits_on_bad_input
from hfssl.models import TaggerConfig, TaggerForPreTraining
from hfssl.training import PretrainingArguments, PretrainingTrainer, run

logger = logging.getLogger("hfssl.pretrain_tagger")


@exits_on_bad_input
def main(argv=None):
    config, text, words, args = parse_config(
        TextArguments,
        VocabularyArguments,
        PretrainingArguments,
        model=TaggerConfig,
        fixed={"vocab_size": "--min_count"},
        argv=argv,
    )
    parts = {split: load_texts(text, split) for split in ("train", "eval")}
    sentences = {split: sentences_of(texts) for split, texts in parts.items()}
    tokenizer = frequent_word_tokenizer(sentences["train"], words.min_count)
    config.vocab_size = len(tokenizer)
    windows = {
        split: WordWindows(sentences[split], tokenizer, config.window, texts.source, texts.fingerprint())
        for split, texts in parts.items()
    }
    batch = args.train_batch_size * args.world_size
    if config.num_codes > batch:
        logger.warning("%d codes cannot all be used by a batch of %d words", config.num_codes, batch)

    set_seed(args.seed)
    trainer = PretrainingTrainer(
        model=build_model(TaggerForPreTraining, config),
        args=args,
        train_dataset=windows["train"],
        eval_dataset=windows["eval"],
        data_collator=collate_words,
        processing_class=tokenizer,
    )
    return run(trainer)


if __name__ == "__main__":
    main()
