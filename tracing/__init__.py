"""The record: a durable journal, and everything that is made from it."""
