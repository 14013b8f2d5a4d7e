"""The tables of a run survive a kill."""

from __future__ import annotations

import numpy as np

from export.train.report import Table


def test_a_table_takes_new_columns_and_forgets_what_a_checkpoint_does_not_know(tmp_path):
    path = tmp_path / "t.csv"
    table = Table(path, 0)
    table.add({"step": 1, "a": 0.5})
    table.add({"step": 2, "a": 1.5, "b": 7})
    table.add({"step": 3, "a": 2.5})
    assert path.read_text().splitlines() == ["step,a,b", "1,0.5,", "2,1.5,7", "3,2.5,"]
    resumed = Table(path, 2)
    assert resumed.column("a").tolist() == [0.5, 1.5]
    assert np.isnan(resumed.column("b")[0])
    resumed.add({"step": 3, "a": 9.0})
    assert path.read_text().splitlines()[-1] == "3,9.0,"
