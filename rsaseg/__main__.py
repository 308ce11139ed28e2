"""``python -m rsaseg``."""

from rsaseg.cli import main

main()
