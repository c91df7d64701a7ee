"""Models behind the APIs of others: which there are, what each takes, and how it is asked. Holds no model itself."""
