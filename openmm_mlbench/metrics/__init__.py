"""Observables as pure functions of trajectories: no torch, no simulation."""
