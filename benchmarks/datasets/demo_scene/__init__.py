"""The sample scene of `make demo`: objects, textures, a path-traced picture and its sensor noise, all from scripts.

    python -m venv .venv-mitsuba
    .venv-mitsuba/bin/pip install . "mitsuba==3.9.1"
    .venv-mitsuba/bin/python -m benchmarks.datasets.demo_scene  # writes coop_edge/demo and tests/data/demo_scene

Mitsuba 3 is a renderer of its own (path tracing, area lights, rough dielectrics); nothing of ``coop_edge.render`` takes
part in the picture. It needs an environment of its own because the project does not depend on it. Everything in the
scene is procedural: there are no assets of third parties. The default 384 samples per pixel take one core about five
minutes, or a minute and a half with ``--variant llvm_ad_rgb`` where there is LLVM (DRJIT_LIBLLVM_PATH names it).
"""
