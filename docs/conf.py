"""The documentation site: make docs. Pages are docs/*.md; API and configuration are generated from the code."""

import os
import sys
from pathlib import Path

from gaze_torchrl import __version__

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project, author, release = "gaze_torchrl", "the gaze_torchrl developers", __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "mathml",
    "sphinx_gallery.gen_gallery",
    "api",
    "configuration",
]
exclude_patterns = ["_build", "_ext"]
html_math_renderer = "mathml"
html_theme = "furo"
html_title = "gaze_torchrl"

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # pages link to headings, as on GitHub
suppress_warnings = [
    "myst.xref_missing",  # links out of docs/, which GitHub follows; tests/test_docs.py looks at them
    "config.cache",
]

autodoc_typehints = "none"  # docstrings say shapes and ranges, which annotations cannot
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_google_docstring = True

# Links, because sphinx-gallery would take tutorials/my_gaze, which is a package, for a gallery of its own.
tutorials = Path(__file__).parents[1] / "tutorials"
scripts = Path(__file__).parent / "_build" / "scripts"
scripts.mkdir(parents=True, exist_ok=True)
for source in [*tutorials.glob("*.py"), tutorials / "README.rst"]:
    (scripts / source.name).unlink(missing_ok=True)
    (scripts / source.name).symlink_to(source)

sphinx_gallery_conf = {
    "examples_dirs": "_build/scripts",
    "gallery_dirs": "tutorials",
    # Ten minutes and more: `make docs-full`.
    "plot_gallery": "EXECUTE" in os.environ,
    "filename_pattern": r"/\d\d_",
    "download_all_examples": False,
    "show_memory": False,
}
