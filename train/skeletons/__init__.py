"""Skeletons: the network's parts, data sets from a config, and the protocol of MSR Action3D."""
