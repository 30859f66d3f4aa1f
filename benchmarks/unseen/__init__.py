"""Tasks that nothing was tuned on: small, quick, and unlike the recorded tables."""
