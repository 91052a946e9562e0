"""How Sphinx builds the documentation: ``sphinx-build -W docs docs/_build``."""

import importlib.metadata

project = "FMEN"
author = "the FMEN authors"
release = version = importlib.metadata.version("fmen")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "FMEN"
html_show_copyright = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autoclass_content = "both"
autodoc_inherit_docstrings = False
