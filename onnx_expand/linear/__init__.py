"""The fold engine: rules over linear terms.

The linear parts of a graph are lifted into terms once (`build`), rewritten by rules that one
driver applies where the cost falls (`rules`, `driver`), and written once (`write`). Weights are
composed in float64 and rounded when they are written.
"""
