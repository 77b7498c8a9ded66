"""``python -m fairmedfm_monai``."""

from __future__ import annotations

from fairmedfm_monai.cli.main import main

if __name__ == "__main__":
    main()
