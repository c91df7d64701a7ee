"""What workflows that ask remote models stand on: limits, retries, keys, failures. No Ray, and no provider's name."""
