package image

import (
	"errors"
	"fmt"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/format"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

// These errors can be returned where an image is opened or verified. The text says which file it is, which part of it does
// not check out, and what was expected.
var (
	// ErrForeign is returned when the bytes are something other than an image.
	ErrForeign = format.ErrForeign

	// ErrByteOrder is returned for an image that a machine of the other byte order has written.
	ErrByteOrder = format.ErrByteOrder

	// ErrVersion is returned for an image of a later version of the format.
	ErrVersion = format.ErrVersion

	// ErrDamaged is returned for an image that was cut off or changed, or that its writer got wrong.
	ErrDamaged = format.ErrDamaged

	// ErrBase is returned where an image shares weights with others, and one of these is gone, or another one.
	ErrBase = format.ErrBase

	// ErrNoSums is returned by Verify for an image of version 1, which has no checksums of its data.
	ErrNoSums = format.ErrNoSums

	// ErrFile is returned for what is no regular file, or an empty one, which cannot be mapped.
	ErrFile = errors.New("cannot be mapped")
)

// These errors can be returned where a tensor is asked for.
var (
	// ErrNoTensor is returned when an image has no tensor of that name.
	ErrNoTensor = errors.New("no such tensor")

	// ErrDtype is returned by View for a tensor whose elements are of another type.
	ErrDtype = errors.New("another dtype")

	// ErrClosed is returned after Close.
	ErrClosed = errors.New("this image was closed")
)

// A FileError says in which file an image is of which something is wrong.
type FileError struct {
	Path string // absolute
	Err  error
}

func (e *FileError) Error() string { return text.Quote(e.Path) + ": " + e.Err.Error() }

func (e *FileError) Unwrap() error { return e.Err }

// A BaseError says that the file of an image that another one shares weights with cannot be had. It is an ErrBase.
type BaseError struct {
	Path string // of the image that was opened, absolute
	Base string // of the one that it shares weights with, as it names it
	Err  error  // why that cannot be had
}

func (e *BaseError) Error() string { return e.With(e.Err.Error()) }

// With returns the text of the error, with another one for why the base cannot be had.
func (e *BaseError) With(why string) string {
	return fmt.Sprintf("%s shares weights with %s (share_with=), which cannot be had: %s",
		text.Quote(e.Path), text.Quote(e.Base), why)
}

func (e *BaseError) Unwrap() []error { return []error{ErrBase, e.Err} }
