"""Document hashing: m bits that the halves of a document agree on (Stratos and Wiseman 2020, AMMI).

    accelerate launch recipes/pretrain_hashing.py --config recipes/hashing_brown.yaml --text_path passages.parquet
    hfssl hashes out/hashing-brown --labelled_path passages.parquet --label_column category

Deep co-training of documents: maximises (1 - beta) H(bits) - H(bits | other half). A BPE of --vocab_size tokens is
trained on the text first, if --tokenizer names none; the model loads with AutoModelForPreTraining, also where hfssl is
not installed (trust_remote_code=True). Expected: see eval/README.md; minutes on a CPU.
"""

from dataclasses import dataclass, field

from transformers import set_seed

from hfssl.config import build_model, parse_config
from hfssl.data.documents import Documents, collate_halves
from hfssl.data.sources import TextArguments, load_texts
from hfssl.errors import exits_on_bad_input
from hfssl.models import HashingConfig, HashingForPreTraining
from hfssl.tokenization import load_tokenizer, train_bpe
from hfssl.training import PretrainingArguments, PretrainingTrainer, run


@dataclass
class TokenArguments:
    tokenizer: str | None = field(default=None, metadata={"help": "A folder or Hub id, instead of a new BPE."})
    vocab_size: int = field(default=8192, metadata={"help": "Of the BPE that is trained on the text."})


@exits_on_bad_input
def main(argv=None):
    config, text, tokens, args = parse_config(
        TextArguments,
        TokenArguments,
        PretrainingArguments,
        model=HashingConfig,
        fixed={"vocab_size": "--vocab_size"},
        argv=argv,
    )
    parts = {split: load_texts(text, split) for split in ("train", "eval")}
    tokenizer = load_tokenizer(tokens.tokenizer) if tokens.tokenizer else train_bpe(parts["train"], tokens.vocab_size)
    config.vocab_size = len(tokenizer)
    documents = {name: Documents(part, tokenizer, part.source, part.fingerprint()) for name, part in parts.items()}

    set_seed(args.seed)
    model = build_model(HashingForPreTraining, config)
    model.set_token_weights(documents["train"].frequencies(len(tokenizer)), len(documents["train"]))
    trainer = PretrainingTrainer(
        model=model,
        args=args,
        train_dataset=documents["train"],
        eval_dataset=documents["eval"],
        data_collator=collate_halves,
        processing_class=tokenizer,
    )
    return run(trainer)


if __name__ == "__main__":
    main()
