"""Does `examples/pod_training` keep what it promises? Kills, and where time goes."""
