package shm

import "errors"

// These errors can be returned by Map; the others that it returns wrap the system's error number.
var (
	// ErrPrivate is returned when the range does not lie in one shared mapping of a file. It is this process's
	// own memory then, as a rule, and can be copied.
	ErrPrivate = errors.New("not in a shared mapping of a file")

	// ErrNoFile is returned when no way leads to the file behind a mapping. A read-only mapping is possible still.
	ErrNoFile = errors.New("the file behind the mapping cannot be opened")

	// ErrMode is returned for a mode that there is not.
	ErrMode = errors.New("unknown mode of mapping")
)

// ErrScarce is returned, with the system's error, when this process has no descriptor or no memory left for what was
// asked: another time it may succeed.
var ErrScarce = errors.New("out of descriptors or memory")

// ErrUnsupported is returned by every function on systems other than Linux.
var ErrUnsupported = errors.New("mapping the store's memory is supported on Linux only")
