"""One conditional language model, decoded in several ways: continue a prompt, translate, complete, reply."""

from hfssl.generation.conditional import Completion, complete, complete_many, translate
from hfssl.generation.conversation import Conversation, chat
from hfssl.generation.decoding import Decoding, GPT2TopP, Try, decode
from hfssl.generation.loading import encode_prompt, load_generator, load_layout
from hfssl.generation.ranking import Ranked, continue_text, rank, sample_and_rank
from hfssl.generation.scoring import sequence_scores

__all__ = [
    "Completion",
    "Conversation",
    "Decoding",
    "GPT2TopP",
    "Ranked",
    "Try",
    "chat",
    "complete",
    "complete_many",
    "continue_text",
    "decode",
    "encode_prompt",
    "load_generator",
    "load_layout",
    "rank",
    "sample_and_rank",
    "sequence_scores",
    "translate",
]
