package format

import "errors"

// These errors can be returned when bytes are read as an image. The text behind them names the part that does
// not check out, the value that is there and what was expected.
var (
	// ErrForeign is returned when the bytes are something other than an image.
	ErrForeign = errors.New("not an image")

	// ErrByteOrder is returned for an image that a machine of the other byte order has written.
	ErrByteOrder = errors.New("image of another byte order")

	// ErrVersion is returned for an image of a version that this reader does not know.
	ErrVersion = errors.New("unknown version of the image format")

	// ErrDamaged is returned for an image that was cut off or changed, or that its writer got wrong.
	ErrDamaged = errors.New("damaged image")
)

// ErrBase is returned where an image shares blocks with others, and what is at hand are not those.
var ErrBase = errors.New("not the image that blocks are shared with")

// ErrInput is returned when a writer is given parts that no image can hold.
var ErrInput = errors.New("invalid part for an image")
