"""BERT: blank language modelling (Devlin et al. 2019), without next-sentence prediction as in RoBERTa (Liu et al.
2019).

    accelerate launch recipes/pretrain_bert.py --config recipes/bert_small.yaml

15 % of the tokens are predicted; of these 80 % are replaced by [MASK], 10 % by a random token, 10 % stay. The lecture's
pure blank is `--mask_scheme 1 0 0`; `--mask_unit word` or `span` hides whole words or spans of them (SpanBERT, Joshi
et al. 2020), `phrase` or `entity` what a `--gazetteer` names (ERNIE, Sun et al. 2019). The masks are drawn anew in each
epoch. The model is a stock BertForMaskedLM and loads with AutoModelForMaskedLM. Without --tokenizer a BERT-style BPE of
--vocab_size entries is trained on the text first.
Expected: see the table in recipes/README.md, which names the hardware, the time and the loss of each YAML.
"""

from dataclasses import dataclass, field

from transformers import BertConfig, set_seed

from hfssl.config import build_model, parse_config
from hfssl.data.blocks import CorpusArguments, fit_vocabulary, load_text_data
from hfssl.data.masking import BERT_SCHEME, MaskingCollator, check_unit
from hfssl.data.phrases import read_gazetteer
from hfssl.data.sources import TextArguments
from hfssl.errors import exits_on_bad_input
from hfssl.models.modeling_lm import language_model
from hfssl.training import PretrainingArguments, PretrainingTrainer, run


@dataclass
class MaskingArguments:
    mlm_probability: float = field(default=0.15, metadata={"help": "Share of the tokens to predict."})
    mask_scheme: list[float] = field(
        default_factory=lambda: list(BERT_SCHEME),
        metadata={"help": "Of these: shares replaced by [MASK], by a random token, and left. The lecture: 1 0 0."},
    )
    mask_unit: str = field(
        default="token",
        metadata={"help": "Hidden as one: token, word, span (1 to 10 words, as in SpanBERT), phrase, entity (ERNIE)."},
    )
    gazetteer: str | None = field(
        default=None, metadata={"help": "Phrases or entities, one a line; without it entities are capitalised words."}
    )

    def __post_init__(self):
        check_unit(self.mask_unit, self.gazetteer is not None)  # before the data is prepared
        self.phrases = read_gazetteer(self.gazetteer) if self.gazetteer else None


@exits_on_bad_input
def main(argv=None):
    config, text, corpus, masking, args = parse_config(
        TextArguments,
        CorpusArguments,
        MaskingArguments,
        PretrainingArguments,
        model=BertConfig,
        fixed={"vocab_size": "--vocab_size", "is_decoder": "recipes/pretrain_gpt.py"},
        argv=argv,
    )
    data = load_text_data(text, corpus, style="bert")
    fit_vocabulary(config, data.tokenizer, corpus.block_size)

    collator = MaskingCollator(
        data.tokenizer, masking.mlm_probability, masking.mask_scheme, args.seed, positions=True,
        unit=masking.mask_unit, gazetteer=masking.phrases,
    )  # fmt: skip
    set_seed(args.seed)
    trainer = PretrainingTrainer(
        model=build_model(language_model, config),
        args=args,
        train_dataset=data.train,
        eval_dataset=data.eval,
        data_collator=collator,
        processing_class=data.tokenizer,
    )
    return run(trainer)


if __name__ == "__main__":
    main()
