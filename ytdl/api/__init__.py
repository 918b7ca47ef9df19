"""HTTP: the only part that knows requests, answers and status codes. One file a feature, one table in
`ytdl.routes`.
"""
