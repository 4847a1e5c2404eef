"""Latency that can be trusted: subjects, load, statistics, placement, a verdict, and the file of results."""
