"""Pictures for people: poses drawn over an image, contact sheets, text labels."""
