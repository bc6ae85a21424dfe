"""Parsers and writers of wire formats, free of any input or output of their own."""
