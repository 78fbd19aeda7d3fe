"""Recorded calls: an answer kept while it runs, and whoever reads it: the same key again, a task's pages, a stream that is resumed."""
