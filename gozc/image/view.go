package image

import (
	"math"

	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/kind"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/mem"
	"github.com/ray-zerocopy/ray-zerocopy/gozc/internal/text"
)

// Element is what Go has types for, or this package, of torch's dtypes. Others are read from Tensor.Bytes.
type Element interface {
	int8 | int16 | int32 | int64 | uint8 | uint16 | uint32 | uint64 |
		float32 | float64 | complex64 | complex128 | Float16 | BFloat16
}

// View returns the elements of a tensor over the mapping, without a copy. Its dtype has to be that of T, or the error is an
// ErrDtype.
//
// Of a contiguous tensor they are all elements, in order. Of another one the element at [i, j] is at
// i*Stride[0] + j*Stride[1].
func View[T Element](t *Tensor) ([]T, error) {
	if want := dtypeOf[T](); t.Dtype != want {
		return nil, kind.Of(ErrDtype, "tensor %s is %s, not %s", text.Quote(t.Name), t.Dtype, want)
	}
	view, ok := mem.As[T](t.Bytes())
	if !ok {
		return nil, kind.Of(ErrDamaged, "index: tensor %s begins at byte %d of its segment, where no %s may lie",
			text.Quote(t.Name), t.Offset, t.Dtype)
	}
	return view, nil
}

func dtypeOf[T Element]() string {
	switch any(*new(T)).(type) {
	case int8:
		return "int8"
	case int16:
		return "int16"
	case int32:
		return "int32"
	case int64:
		return "int64"
	case uint8:
		return "uint8"
	case uint16:
		return "uint16"
	case uint32:
		return "uint32"
	case uint64:
		return "uint64"
	case float32:
		return "float32"
	case float64:
		return "float64"
	case complex64:
		return "complex64"
	case complex128:
		return "complex128"
	case Float16:
		return "float16"
	default:
		return "bfloat16"
	}
}

// A Float16 holds the bits of a float16: 1 for the sign, 5 for the exponent, 10 for the fraction (IEEE 754, binary16).
type Float16 uint16

// Float32 returns the same number as a float32.
func (f Float16) Float32() float32 {
	sign, exponent, fraction := uint32(f>>15), uint32(f>>10&0x1f), uint32(f&0x3ff)
	switch exponent {
	case 0: // zero, or too small for an exponent
		value := float32(fraction) * 0x1p-24
		if sign == 1 {
			return -value
		}
		return value
	case 0x1f: // infinite, or no number
		exponent = 0xff
	default:
		exponent += 127 - 15
	}
	return math.Float32frombits(sign<<31 | exponent<<23 | fraction<<13)
}

// A BFloat16 holds the bits of a bfloat16: the upper half of a float32.
type BFloat16 uint16

// Float32 returns the same number as a float32.
func (f BFloat16) Float32() float32 {
	return math.Float32frombits(uint32(f) << 16)
}
