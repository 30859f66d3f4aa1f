"""Records: what was measured, as lines of JSON that are whole or not there."""
