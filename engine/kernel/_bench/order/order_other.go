//go:build !amd64 && !arm64

package main

func instructions() []instruction { return nil }
