package stack

// #cgo LDFLAGS: -ldl
import "C"
