"""One of two processes of test_word_processes.py: trains word vectors and, if it is the first, saves them.

python -m torch.distributed.run --nproc_per_node 2 tests/training/word_processes.py FOLDER
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist

from hfssl.data.word_contexts import ContextCollator, WordContexts
from hfssl.data.word_corpus import build_word_corpus
from hfssl.models import CBOWConfig, CBOWForPreTraining
from hfssl.training import PretrainingArguments
from hfssl.training.words import VectorTrainer


def train(folder, processes):
    """The state dict and the losses of 12 steps of 8 samples, over two passes."""
    words = [f"{letter}{number % 3}" for number in range(12) for letter in "abcd"]
    corpus = build_word_corpus([words[:20], words[20:]], 1)
    torch.manual_seed(0)
    model = CBOWForPreTraining(CBOWConfig(vocab_size=12, hidden_size=5, window=2, position_weights=True))
    model.set_vocabulary(corpus.words)
    args = PretrainingArguments(
        output_dir=str(folder), optim="sgd", learning_rate=0.1, learning_rate_scaling="sum", max_grad_norm=0,
        per_device_train_batch_size=8 // processes, max_steps=12, use_cpu=True, save_strategy="no", logging_steps=1,
    )  # fmt: skip
    assert args.world_size == processes
    contexts = WordContexts(corpus, model.config, subsample=0.2)
    trainer = VectorTrainer(
        model, args, train_dataset=contexts, data_collator=ContextCollator(contexts, {}), corpus=corpus
    )
    trainer.train()
    return model.state_dict(), [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def main():
    torch.set_num_threads(1)
    found = train(Path(sys.argv[1]) / "two", 2)
    assert dist.get_world_size() == 2
    if dist.get_rank() == 0:
        torch.save(found, Path(sys.argv[1]) / "found.pt")


if __name__ == "__main__":
    main()
