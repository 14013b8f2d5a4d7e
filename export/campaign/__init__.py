"""Training in trips: on a machine that is at hand for minutes at a time, with files carried there and back by hand."""
