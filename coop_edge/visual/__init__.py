"""Draws pictures for people: poses over an image, contact sheets, text labels."""
