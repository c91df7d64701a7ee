"""The models of the default system: small, trained here, committed beside the scripts that reproduce them."""
