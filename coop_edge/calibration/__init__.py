"""Reads the calibration files of others: what ``Camera.load`` knows."""
