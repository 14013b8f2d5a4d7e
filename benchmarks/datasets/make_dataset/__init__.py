"""A synthetic data set of our own in BOP layout: held-out objects in cluttered, path-traced scenes.

    python -m venv .venv-mitsuba
    .venv-mitsuba/bin/pip install ".[export]" "mitsuba==3.9.1"
    .venv-mitsuba/bin/python -m benchmarks.datasets.make_dataset synthetic --pack pack.npz

It is where hyper-parameters are chosen; nothing is trained on it. Its objects belong to the held-out split of the asset
pack (``python -m export assets`` makes one), or are procedural ones of that split where there is no pack. They are put
down on a table one after the other and tip until they lie on what is below them (``settle``), are lit in one of several
ways (``room``) and traced by Mitsuba 3 (``render``), a renderer of its own: nothing of ``coop_edge.render`` takes part
in the pictures, the depth or the visible masks. ``truth`` holds the outlines of our renderer at the stated poses
against Mitsuba's and the command prints how well they agree. The same options give the same set; a run that was ended
is taken up again by the same command.
"""
