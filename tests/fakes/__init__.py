"""Servers that stand in for what is outside the machine. None of them knows anything of ytdl's own code."""
