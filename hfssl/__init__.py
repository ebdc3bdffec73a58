"""hfssl: self-supervised pretraining and its evaluation in the Hugging Face ecosystem."""

__version__ = "0.1.0"
