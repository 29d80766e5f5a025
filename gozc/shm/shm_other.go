//go:build !linux

package shm

// Locate returns the mapping of this process in which the length bytes at address lie.
func Locate(address, length int64) (Region, error) { return Region{}, ErrUnsupported }

// Map maps the length bytes at address again and returns the address of the first of them in the new mapping.
func Map(address, length int64, raylet int, mode Mode) (int64, error) { return 0, ErrUnsupported }

// Unmap undoes Map, given the address that it returned.
func Unmap(address int64) error { return ErrUnsupported }

// Detach makes a mapping this process's own.
func Detach(address int64) error { return ErrUnsupported }

// Prefault fills the page tables for the length bytes at address, so that the first use of them does not have to.
func Prefault(address, length int64) error { return ErrUnsupported }
