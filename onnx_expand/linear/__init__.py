"""The fold engine: rules over linear terms.

The linear parts of a graph are lifted into terms once (`terms`), rewritten by rules that one
driver applies where the cost falls (`chains`, `driver`, `rules`), and written once (`writing`).
Weights are composed in float64 and rounded when they are written.
"""
