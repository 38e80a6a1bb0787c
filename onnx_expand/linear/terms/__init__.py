"""Terms: the linear part of a graph as an expression, and how nodes become terms."""
