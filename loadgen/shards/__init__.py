"""Several processes of this machine as one load generator: one schedule, one window, one run.

The conductor (`crew`, `stage`) does the preflight, says when all begin and when the window is
over, and merges (`merge`) what the shards (`process`) write. It alone knows all completions in
their order, so it alone decides by count; they only drive what was dealt to them.
"""
