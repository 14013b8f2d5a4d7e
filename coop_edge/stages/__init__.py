"""The stages: crop, coarse, refine, outline, select. Glue over the contracts of templates, render, pnp and runtime."""
