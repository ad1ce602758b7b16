"""Facts about a call and a text: where values come from, which passages give orders, what a tool is."""
