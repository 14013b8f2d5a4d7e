"""Examines what is on this machine, what is missing, and whether an Estimator could run: ``coop-edge doctor``.

Probes (``machine``, ``libraries``, ``networks``) return plain data. What loads native libraries runs in a child process
with a time limit (``isolate``), so an import that raises, crashes or hangs becomes a row with the status "broken", and
the report goes on. ``checks`` makes the rows, ``report`` the verdict, ``assemble`` does all of it, ``table`` prints.

``Report.to_dict`` is what ``coop-edge doctor --json`` prints, schema 1:

- ``schema``: 1; ``coop_edge``: version; ``ready``: an Estimator could run on some device (the exit code is 0 then);
- ``devices``: {"cpu", "cuda"} -> {``ready``, ``blocked_by``: names of the rows that keep it from running there};
- ``next_steps``: the shortest way to a device that is ready, commands in order; empty if one is;
- ``rows``: list of {``name``, ``group``, ``status``, ``found``, ``purpose``, ``required_for``, ``fix``, ``data``}, as
  ``report.Row`` describes them.

Rows that are always there: python, system, jetson, coop_edge, numpy, opencv, trimesh, numba, onnxruntime, conflicts,
numba_cache, open3d, fast_simplification, gpu, cupy, cupy_cache, onnxruntime_cuda, tensorrt, bundles,
cuda_runner; per bundle also ``bundle:NAME`` and, if it can be read, ``plans:NAME``. Keys may be added within a schema,
in ``data`` too; none changes its meaning.
"""

from __future__ import annotations

from coop_edge.doctor.assemble import examine as examine
from coop_edge.doctor.report import Report as Report
from coop_edge.doctor.report import Row as Row
