"""The router: one door for every workflow. Protocols are thin; what they share is in `dispatch` and `directory`."""
