"""mkdocs' hook: a fence ```math becomes MathML, which browsers draw without a script. GitHub draws the same fence.

The hook is named in mkdocs.yml; nobody imports it.
"""

from latex2mathml.converter import convert


def formula(source, language, css_class, options, md, **kwargs):
    """A fence's LaTeX as MathML; one formula a line that is followed by an empty one."""
    formulas = [" ".join(part.split()) for part in source.split("\n\n") if part.strip()]
    return "".join(f'<div class="{css_class}">{convert(each, display="block")}</div>' for each in formulas)


def on_config(config):
    """Called by mkdocs once the configuration is read."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "math", "class": "formula", "format": formula}]
    return config
