"""Networks in plain torch, for a peer's environment, which has nothing of ours, to import too."""
