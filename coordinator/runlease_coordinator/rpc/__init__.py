"""Protobuf to domain and back, nothing else; statuses are set in `errors` alone."""
