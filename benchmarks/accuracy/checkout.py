"""Which code made a result: the commit of the checkout that the benchmarks are run from."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def commit(root: Path = ROOT) -> dict[str, Any] | None:
    """Return {"sha": 40 hex digits, "changed": whether files under version control differ from it}.

    None where ``root`` is not the top of a git checkout, or git is missing.
    """
    try:
        top, sha = _git(root, "rev-parse", "--show-toplevel", "HEAD").splitlines()
        changed = _git(root, "status", "--porcelain", "--untracked-files=no")
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return {"sha": sha, "changed": bool(changed)} if Path(top) == root.resolve() else None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=60)
    return done.stdout.strip()
