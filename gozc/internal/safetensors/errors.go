package safetensors

import "errors"

// These errors can be returned when bytes are read as a safetensors file. The text behind them names the tensor that
// does not check out, the value that is there and what was expected.
var (
	// ErrForeign is returned when the bytes are something other than a safetensors file.
	ErrForeign = errors.New("not a safetensors file")

	// ErrDamaged is returned for a file that was cut off or changed, or that its writer got wrong.
	ErrDamaged = errors.New("damaged safetensors file")
)
