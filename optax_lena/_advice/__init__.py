"""How large a batch: what LENA's noise and signal say about runs not yet made.

In the order in which data flow: the history of a run's metrics, the interval of what
is read from it, the curve of examples over batch sizes, the advice, its text and its
figure; beside them the branch test, the batch ramps and their configurations. All of
it is plain NumPy on the host, and Matplotlib in the figure.
"""
