"""The client's side of a call: its connection, its request on the way in, and the sink that its answer is written to."""
