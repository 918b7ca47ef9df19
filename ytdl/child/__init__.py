"""What runs in the fork server and its children: the only place that imports yt-dlp, and it imports nothing
else of ytdl.

`frames` is the language spoken with the service and is imported by both sides; it loads nothing but msgspec.
"""
