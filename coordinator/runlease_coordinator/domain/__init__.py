"""Dataclasses and decisions: no grpc, no redis, no I/O."""
