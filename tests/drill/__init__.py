"""The fault drill: everything that watches the service is started for real, then things are broken for real.

For each fault it is seen which alert reaches Alertmanager, which message reaches whom, how long that took, and that it
ends when the fault is mended. `scaling` makes minutes into seconds, `ground` starts what is watched, `inbox` is where
messages arrive, `faults` is what is broken, `run` watches one fault, `report` makes the table.
"""
