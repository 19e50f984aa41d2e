"""Coupled channels: which of a graph's channels live or die together, and the graph without some.

Every axis of every tensor carries labels (`axis`), which operators hand on (`layers`, `recurrent`,
`attention`, `pointwise`, `views`, `pieces`) and join in a ledger (`ledger`). What the ledger has
joined are the groups (`groups`); `shrink` writes the graph in which some channels are gone.
"""
