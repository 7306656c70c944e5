package main

const (
	sysFinitModule = 313
	sysMlock2      = 325
)
