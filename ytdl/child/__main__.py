"""Entry of the fork server: `python -m ytdl.child <control descriptor> <pid of the service>`."""

import sys

from ytdl.child import zygote

if __name__ == "__main__":
    zygote.main(int(sys.argv[1]), int(sys.argv[2]))
