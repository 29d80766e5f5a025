package store

import "errors"

var (
	// ErrNoStore is returned where there is no raylet on this machine, or none whose descriptors this process may read.
	ErrNoStore = errors.New("no store of Ray's can be read")

	// ErrLayout is returned for a store whose memory is laid out in another way than this package knows.
	ErrLayout = errors.New("the memory of this store is laid out in an unknown way")

	// ErrNotFound is returned by Find.
	ErrNotFound = errors.New("no such image in the store")

	// ErrGone is returned for an image that the store does not hold any more, or is about to give up.
	ErrGone = errors.New("the image is no longer in the store")

	// ErrUnsupported is returned on systems other than Linux.
	ErrUnsupported = errors.New("the store can be read on Linux only")
)
