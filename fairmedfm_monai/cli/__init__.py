"""The command line, ``python -m fairmedfm_monai``."""
