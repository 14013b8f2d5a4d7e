"""Co-op stage by stage: crop, coarse, refine, select. Glue over the contracts of templates, render, pnp and runtime."""
