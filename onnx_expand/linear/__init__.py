"""The fold engine: rules over linear terms.

The linear stretches of a graph are lifted once into terms (`build`), rewritten there by rules that
one driver applies where the cost falls (`rules`, `driver`), and written once (`write`). Numbers
are composed in float64 and rounded when they are written.
"""
