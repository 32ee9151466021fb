"""Sphinx configuration of the documentation site; ``make docs`` builds it."""

import sys
from pathlib import Path

from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

from pages_from_code import link_out, write_pages

from galaxy_mpi import __version__

project = "galaxy_mpi"
author = "The galaxy_mpi developers"
version = release = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 3
exclude_patterns = ["examples/*.py"]
default_role = "py:obj"
# A word such as `shape` may name a parameter here and an attribute elsewhere.
suppress_warnings = ["ref.python"]
toc_object_entries = False

# Types stand in the docstrings, in numpydoc's words.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "imported-members": True, "show-inheritance": True}
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"galaxy_mpi {__version__}"
html_show_copyright = False
html_copy_source = False


def setup(app: Sphinx) -> None:
    """Write the generated pages before anything is read, and turn links to files into URLs."""
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir)))
    app.connect("source-read", link_out)
