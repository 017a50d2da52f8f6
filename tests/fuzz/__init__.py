"""What comes from outside, as bytes: each target takes any and must answer as its contract says."""
