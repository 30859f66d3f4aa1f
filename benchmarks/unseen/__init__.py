"""Small tasks: quick, of many kinds, and unlike the recorded tables."""
