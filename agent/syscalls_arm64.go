package main

const (
	sysFinitModule = 273
	sysMlock2      = 284
)
