"""`python -m ytdl`, the same as the `ytdl` command."""

import sys

from ytdl.cli import main

sys.exit(main())
