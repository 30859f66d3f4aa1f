"""Training: how a run is cut, the loop, and the rows and tables it fills."""
