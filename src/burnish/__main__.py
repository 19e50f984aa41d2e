"""`python -m burnish` is the command `burnish`."""

from __future__ import annotations

from burnish.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
