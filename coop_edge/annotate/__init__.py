"""Poses for many images: sources, workers, the record that is resumed, the files at the end."""
