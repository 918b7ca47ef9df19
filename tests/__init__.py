"""Tests of ytdl. Fakes of what is outside the machine are servers, in `tests.fakes`."""
