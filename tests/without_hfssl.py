"""The beginning of a program in which hfssl cannot be imported, as on a machine that has only what was saved."""

REFUSE_HFSSL = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hfssl":
            raise ModuleNotFoundError("No module named 'hfssl'", name="hfssl")

sys.meta_path.insert(0, Refuse())
"""
