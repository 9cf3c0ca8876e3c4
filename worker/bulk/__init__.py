"""A corpus in, a corpus out: `gpner-worker bulk`.

    inputs -> reading -> local or over_queue -> output        and job, which remembers how far that is

Everything goes through in blocks of documents, in the order of the input, so that the output depends on the input, the
model and the options alone, never on time, workers or kills. `run` and `flow` put the parts together.
"""
