"""The documentation site. ``make docs`` builds it into ``build/docs``; it needs no network."""

import re
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

from brc_pytorch import __version__

project = "brc_pytorch"
copyright = "the brc_pytorch authors"
release = version = __version__
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
default_role = "literal"  # what a docstring has between single backquotes
exclude_patterns = ["results/data"]

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "brc_pytorch"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = html_show_sourcelink = False
html_math_renderer = "mathml"

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {
    "members": True,
    "inherited-members": "Module,Dataset,tuple",  # what these have is documented elsewhere
    "exclude-members": "extra_repr",
}
napoleon_custom_sections = ["Shapes", ("Attributes", "params_style")]
python_maximum_signature_line_length = 88


def as_restructured_text(*event: Any) -> None:  # noqa: ANN401 - of several types
    """Escape what plain text means by itself, (*, H) and |u|, and reStructuredText does not."""
    lines: list[str] = event[-1]
    for number, line in enumerate(lines):
        lines[number] = re.sub(r"(?<=[( ])\*(?=[,)])|\|(?=\w+\|)|(?<=\|\w)\|", r"\\\g<0>", line)


def formula(translator: HTML5Translator, node: nodes.math | nodes.math_block) -> None:
    """Write a formula as MathML, which browsers draw without a script."""
    text, is_block = node.astext(), isinstance(node, nodes.math_block)
    if r"\\" in text:
        text = rf"\begin{{aligned}}{text}\end{{aligned}}"
    tag = "div" if is_block else "span"
    translator.body.append(f'<{tag} class="math">{tex2mathml(text, as_block=is_block)}</{tag}>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Register the two."""
    app.connect("autodoc-process-docstring", as_restructured_text)
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
