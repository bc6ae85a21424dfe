"""The site and the man pages, made by Sphinx: make docs.  A broken link is an error."""

project = "relaygate"
author = "the relaygate authors"
copyright = author  # noqa: A001 - Sphinx's name for it
extensions = ["myst_parser"]
myst_enable_extensions = ["deflist"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
# Headings may be linked to, as forges do it.
myst_heading_anchors = 3
nitpicky = True
# A document that stands in no list is found by its links.
suppress_warnings = ["toc.not_included"]
html_theme = "alabaster"
html_theme_options = {"description": "A DMZ gateway for file transfer", "page_width": "72rem"}
html_show_sourcelink = False
# Nothing of the site is fetched from elsewhere.
html_use_opensearch = ""
man_pages = [
    ("commands", "relaygate", "tools for a DMZ gateway", [author], 1),
    ("man-dmz", "relaygate-dmz", "the node in the DMZ", [author], 8),
    ("man-internal", "relaygate-internal", "the node in the private network", [author], 8),
]
