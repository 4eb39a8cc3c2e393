"""How the pages are made: ``python -m sphinx -W -b html python/docs OUT``; the package must be installed."""

import prunecca

project = "prunecca"
author = "the prunecca authors"
version = release = prunecca.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
templates_path = ["_templates"]
exclude_patterns = ["_build"]

autosummary_generate = True
autosummary_imported_members = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 100
suppress_warnings = ["ref.python"]  # a word of a docstring such as "count" is an attribute of several classes
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True  # fields of a dataclass are described once, in the class

html_theme = "furo"
html_show_copyright = False
html_title = f"prunecca {release}"
