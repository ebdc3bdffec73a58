"""A conditional language model: translation, commonsense (COMET, Bosselut et al. 2019) or dialogue (Meena, Adiwardana
et al. 2020) as `source <sep> target <end>`, with the loss on the target.

    accelerate launch recipes/pretrain_conditional.py --config recipes/translation_multi30k.yaml --pair_path multi30k

The model is a GPT-2, or by `model.architecture: llama` a modern block; what is saved loads with AutoModelForCausalLM,
and conditional.json beside it says how a row becomes a prompt. Without --tokenizer one BPE of --vocab_size entries is
trained on both sides. --init_from out/gpt begins with the model and the tokenizer of another run, COMET's ablation.
Expected: eval/README.md has scores of a quarter of an hour on one core for each YAML of real data.
"""

from transformers import GPT2Config, LlamaConfig, set_seed

from hfssl.config import build_model, parse_config
from hfssl.data.blocks import fit_vocabulary
from hfssl.data.conditional import LAYOUT, PairArguments, load_pair_data
from hfssl.data.pairs import PairCollator
from hfssl.errors import exits_on_bad_input
from hfssl.models.modeling_lm import language_model
from hfssl.training import PretrainingArguments, PretrainingTrainer, run
from hfssl.training.beginning import pretrained_model


@exits_on_bad_input
def main(argv=None):
    config, pairs, args = parse_config(
        PairArguments,
        PretrainingArguments,
        model={"gpt2": GPT2Config, "llama": LlamaConfig},
        fixed={"vocab_size": "--vocab_size"},
        argv=argv,
    )
    data = load_pair_data(pairs)

    set_seed(args.seed)
    if pairs.init_from:
        given = args.given.get("model", {})
        model = pretrained_model(pairs.init_from, config, given, data.tokenizer, pairs.max_length)
    else:
        fit_vocabulary(config, data.tokenizer, pairs.max_length, "max_length")
        model = build_model(language_model, config)
    trainer = PretrainingTrainer(
        model=model,
        args=args,
        train_dataset=data.train,
        eval_dataset=data.eval,
        data_collator=PairCollator(data.tokenizer.eos_token_id, pairs.source_weight),
        processing_class=data.tokenizer,
        files={LAYOUT: data.layout.to_json()},
    )
    return run(trainer)


if __name__ == "__main__":
    main()
