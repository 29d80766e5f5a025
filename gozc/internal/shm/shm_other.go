//go:build !linux

package shm

// Locate returns the mapping of this process in which the length bytes at address lie.
func Locate(address, length int64) (Region, error) { return Region{}, ErrUnsupported }

// Map maps the length bytes at address again.
func Map(address, length int64, raylet int, mode Mode) (Mapping, error) {
	return Mapping{}, ErrUnsupported
}

// MapFile maps the first length bytes of an open file, copy-on-write.
func MapFile(descriptor int, length int64) (Mapping, error) { return Mapping{}, ErrUnsupported }

// Unmap undoes Map.
func (m Mapping) Unmap() error { return ErrUnsupported }

// Detach makes a mapping this process's own.
func (m Mapping) Detach() error { return ErrUnsupported }

// Prefault fills the page tables for the length bytes at address, so that the first use of them does not have to.
func Prefault(address, length int64) error { return ErrUnsupported }
