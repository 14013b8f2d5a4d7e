"""A local web page to see, correct and keep poses. Needs the extra ``view`` (viser) where the page itself is made."""
