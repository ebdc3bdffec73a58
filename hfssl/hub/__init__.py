"""What goes to the Hub: cards, scores, and the push of a folder in one commit."""

from hfssl.hub.card import loading_code, write_model_card

__all__ = ["loading_code", "write_model_card"]
