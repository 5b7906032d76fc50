"""What a stage comes to, once it is over: tallies, percentiles, verdicts, our own error. Pure."""
